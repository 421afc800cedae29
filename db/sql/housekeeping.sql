-- name: delete_job_log
-- Deletes what the job engine noted before an instant.
DELETE FROM pgqueuer_log
WHERE created < $1;

-- name: delete_job_statistics
-- Deletes what the job engine counted before an instant.
DELETE FROM pgqueuer_statistics
WHERE created < $1;

-- name: delete_reservations
-- Deletes reservations that no frequency cap looks back to any more.
DELETE FROM push_reservations
WHERE at < $1;

-- name: delete_send_counters
-- Deletes counters of windows that are over.
DELETE FROM send_counters
WHERE window_start < $1;

/** The tabs a first visit opens with, in the order in which a newcomer needs them. Titles are the operations' names. */
import auditLog from './audit-log.graphql';
import deliveryUpdates from './delivery-updates.graphql';
import eraseProfile from './erase-profile.graphql';
import eventStream from './event-stream.graphql';
import eventTypes from './event-types.graphql';
import identify from './identify.graphql';
import latestEvents from './latest-events.graphql';
import me from './me.graphql';
import rateLimit from './rate-limit.graphql';
import sendPush from './send-push.graphql';
import setConsent from './set-consent.graphql';
import signInAnonymously from './sign-in-anonymously.graphql';
import signUp from './sign-up.graphql';
import trackEvent from './track-event.graphql';
import viewer from './viewer.graphql';
import workflowRunUpdates from './workflow-run-updates.graphql';

const TRACK_VARIABLES = `{
  "event": {
    "eventType": "order.placed",
    "userId": "ada",
    "properties": { "amount": 42.5, "currency": "EUR" }
  }
}`;

const IDENTIFY_VARIABLES = `{
  "input": {
    "userId": "ada",
    "traits": { "name": "Ada Lovelace", "plan": "pro" }
  }
}`;

const SEND_PUSH_VARIABLES = `{
  "input": {
    "userIds": ["user_001", "user_002", "user_003"],
    "push": { "title": "Hello", "body": "From GraphiQL" }
  }
}`;

const SIGN_UP_VARIABLES = `{
  "input": {
    "email": "ada@example.com",
    "password": "seven violet anchors",
    "anonymousRefreshToken": null
  }
}`;

const SET_CONSENT_VARIABLES = `{
  "input": {
    "userId": "ada",
    "purpose": "EMAIL",
    "state": "REVOKED",
    "source": "settings page"
  }
}`;

const ERASE_VARIABLES = `{
  "input": {
    "userId": "ada",
    "reason": "Asked for by letter"
  }
}`;

function example(query: string, variables = '') {
  return { query, variables };
}

export const EXAMPLES = [
  example(eventStream, '{ "filter": { "eventTypes": ["*"] } }'),
  example(trackEvent, TRACK_VARIABLES),
  example(identify, IDENTIFY_VARIABLES),
  example(deliveryUpdates, '{ "filter": { "channels": ["PUSH"] } }'),
  example(sendPush, SEND_PUSH_VARIABLES),
  example(workflowRunUpdates, '{ "filter": { "statuses": null } }'),
  example(latestEvents, '{ "first": 10, "filter": { "eventTypes": ["*"] } }'),
  example(eventTypes, '{ "search": null }'),
  example(viewer),
  example(rateLimit),
  example(signInAnonymously, '{ "input": { "deviceId": "phone" } }'),
  example(signUp, SIGN_UP_VARIABLES),
  example(me),
  example(setConsent, SET_CONSENT_VARIABLES),
  example(auditLog, '{ "first": 10, "subject": null }'),
  example(eraseProfile, ERASE_VARIABLES),
];

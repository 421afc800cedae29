// What both Node peers serve: the gateway's `eventStream` in miniature, fed from memory instead of from a log.
import { EventEmitter } from 'node:events'

export const typeDefs = `
  scalar JSON
  input EventFilter { userId: String }
  type Event { id: ID! seq: Int! eventType: String! timestamp: String! userId: String properties: JSON! }
  type EventEdge { cursor: String! node: Event! }
  type Query { ping: String! }
  type Subscription { eventStream(filter: EventFilter): EventEdge }
`

const emitter = new EventEmitter()
emitter.setMaxListeners(0)

export function publish(seq, users) {
  emitter.emit('event', {
    cursor: `cursor-${String(seq).padStart(44, '0')}`,
    node: {
      id: `evt_${String(seq).padStart(32, '0')}`,
      seq,
      eventType: 'order.placed',
      timestamp: '2026-05-01T12:00:00.000Z',
      userId: `user-${seq % users}`,
      properties: { amount: 12.5, currency: 'EUR', items: [{ sku: 'A-1', quantity: 2 }], coupon: null },
    },
  })
}

// One queue per subscriber, as graphql-subscriptions and mercurius do it.
export async function* eventStream(filter) {
  const queue = []
  let wake = () => {}
  const listener = (edge) => {
    if (filter?.userId === undefined || edge.node.userId === filter.userId) {
      queue.push(edge)
      wake()
    }
  }
  emitter.on('event', listener)
  try {
    for (;;) {
      while (queue.length > 0) yield { eventStream: queue.shift() }
      await new Promise((resolve) => { wake = resolve })
    }
  } finally {
    emitter.off('event', listener)
  }
}

// GET /publish?from=1&count=100&users=1: as many events, each in a turn of the event loop of its own.
export async function publishAll(url) {
  const parameters = new URL(url, 'http://localhost').searchParams
  const from = Number(parameters.get('from'))
  const count = Number(parameters.get('count'))
  const users = Number(parameters.get('users') ?? 1)
  for (let seq = from; seq < from + count; seq++) {
    publish(seq, users)
    await new Promise((resolve) => setImmediate(resolve))
  }
}

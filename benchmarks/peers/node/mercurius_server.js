// mercurius on fastify with its JIT on, as its documentation starts it.
import Fastify from 'fastify'
import mercurius from 'mercurius'
import { eventStream, publishAll, typeDefs } from './events.js'

const app = Fastify()
app.register(mercurius, {
  schema: typeDefs,
  resolvers: {
    Query: { ping: () => 'pong' },
    Subscription: { eventStream: { subscribe: (_source, { filter }) => eventStream(filter) } },
  },
  subscription: true,
  jit: 1,
})
app.get('/publish', async (request) => {
  await publishAll(request.url)
  return 'done'
})
await app.listen({ port: Number(process.argv[2]), host: '127.0.0.1' })
console.log('ready')

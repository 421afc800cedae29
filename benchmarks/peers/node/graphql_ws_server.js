// graphql-ws with ws, as its documentation starts it.
import { createServer } from 'node:http'
import { buildSchema } from 'graphql'
import { useServer } from 'graphql-ws/use/ws'
import { WebSocketServer } from 'ws'
import { eventStream, publishAll, typeDefs } from './events.js'

const schema = buildSchema(typeDefs)
const field = schema.getSubscriptionType().getFields().eventStream
field.subscribe = (_source, { filter }) => eventStream(filter)

const server = createServer(async (request, response) => {
  await publishAll(request.url)
  response.end('done')
})
useServer({ schema }, new WebSocketServer({ server, path: '/graphql' }))
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('ready'))

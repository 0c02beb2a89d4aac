import { appendFile } from 'node:fs/promises'
import Fastify from 'fastify'
import backgroundTasks from 'fastify-background-tasks'

const app = Fastify({ logger: true })
await app.register(backgroundTasks)

async function writeNotification (email, message) {
  await appendFile('log.txt', `notification for ${email}: ${message}\n`)
}

app.post('/send-notification/:email', async (request) => {
  request.backgroundTasks.add(writeNotification, request.params.email, 'some notification')
  return { message: 'Notification sent in the background' }
})

await app.listen({ port: 3000 })

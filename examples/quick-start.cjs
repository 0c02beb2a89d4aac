const { appendFile } = require('node:fs/promises')
const Fastify = require('fastify')
const backgroundTasks = require('fastify-background-tasks')

const app = Fastify({ logger: true })
app.register(backgroundTasks)

async function writeNotification (email, message) {
  await appendFile('log.txt', `notification for ${email}: ${message}\n`)
}

app.register(async function routes (app) {
  app.post('/send-notification/:email', async (request) => {
    request.backgroundTasks.add(writeNotification, request.params.email, 'some notification')
    return { message: 'Notification sent in the background' }
  })
})

app.listen({ port: 3000 })

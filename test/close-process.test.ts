import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'tap'
import { compile, sources } from './support/threads'
import { until } from './support/until'

test('a handler that never ends, of a client that has left, does not keep the process of a closed application', async t => {
  const folder = t.testdir({
    'main.js': `
      const { once } = require('node:events')
      const { connect } = require('node:net')
      const Fastify = require('fastify')
      const backgroundTasks = require('./index')
      async function main () {
        const app = Fastify({ forceCloseConnections: true })
        await app.register(backgroundTasks, { abortGrace: 2_147_483_647, closeTimeout: 10 })
        app.get('/', (request, reply) => {
          request.backgroundTasks.add(() => {})
          socket.destroy()
          reply.raw.once('close', () => app.close().then(() => console.log('closed', app.backgroundTasks.stats().dropped)))
          return new Promise(() => {})
        })
        await app.listen({ port: 0, host: '127.0.0.1' })
        const socket = connect(app.server.address().port, '127.0.0.1')
        await once(socket, 'connect')
        socket.write('GET / HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n')
      }
      main()`
  })
  compile(folder, sources)
  const child = spawn(process.execPath, [join(folder, 'main.js')], { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, NODE_OPTIONS: '' } })
  t.teardown(() => child.kill('SIGKILL'))
  let output = ''
  child.stdout.on('data', text => { output += text })
  t.equal(await until('the process to end', () => child.exitCode), 0)
  t.equal(output, 'closed 1\n')
})

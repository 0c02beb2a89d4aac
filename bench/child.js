'use strict'

const { fork } = require('node:child_process')
const { once } = require('node:events')
const { join } = require('node:path')

/*
 * A process of the benchmark that answers calls: the parent's side, `start`, and the child's, `answer`. One call is
 * under way at a time.
 */

function start (file, execArgv = []) {
  const child = fork(join(__dirname, file), { execArgv })
  const ended = once(child, 'exit').then(([code, signal]) => [{ error: `the process ended with ${signal ?? code}` }])
  return {
    async call (command, options = {}) {
      child.send({ command, ...options })
      const [reply] = await Promise.race([once(child, 'message'), ended])
      if (reply.error !== undefined) throw new Error(`${file}: ${reply.error}`)
      return reply.result
    },

    async stop () {
      if (child.connected) child.disconnect()
      await ended
    }
  }
}

function answer (commands) {
  process.on('message', async ({ command, ...options }) => {
    try {
      const result = await commands[command](options)
      process.send({ result })
    } catch (error) {
      process.send({ error: error.stack })
    }
  })
  process.on('disconnect', () => process.exit())
}

module.exports = { start, answer }

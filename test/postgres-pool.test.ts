import { EventEmitter } from 'node:events'
import { test } from 'tap'
import { TaskPool } from '../lib/backends/bullmq/postgres/pool'

test('an error of a connection that rests in the pool is told to who listens, and else ends no process', async t => {
  const pool = new EventEmitter()
  const tasks = new TaskPool({ pool, isOwn: false } as never)
  const error = new Error('terminating connection due to administrator command')
  pool.emit('error', error)
  const told: Error[] = []
  tasks.on('error', error => told.push(error))
  pool.emit('error', error)
  t.strictSame(told, [error])
})

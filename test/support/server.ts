import assert from 'node:assert/strict'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import backgroundTasks, { type BackgroundTasksOptions, type Stats, type TaskDefinition } from '../../index'
import { NEVER_MS, until } from './until'

/** A line that the application has logged. */
export interface LogLine {
  level: number
  msg: string
  reqId?: string
  err?: { message: string, code?: string }
  task?: { id: string, name: string, attempt: number, state?: string }
  [field: string]: unknown
}

/** An application with the plugin, whose log is kept. It is closed when the test ends. */
export async function createApp (
  t: Test,
  options: BackgroundTasksOptions = {},
  fastifyOptions: FastifyServerOptions = {}
): Promise<{ app: FastifyInstance, log: LogLine[] }> {
  const log: LogLine[] = []
  const app = Fastify({
    logger: { level: 'debug', stream: { write: (line: string) => { log.push(JSON.parse(line)) } } },
    // A connection that a client keeps alive would hold up each test's end.
    forceCloseConnections: true,
    ...fastifyOptions
  })
  t.teardown(() => app.close())
  // Longer than any test waits: whatever is to start the tasks of a client that has left is seen to do so.
  await app.register(backgroundTasks, { abortGrace: 2 * NEVER_MS, ...options })
  return { app, log }
}

/** Starts to listen on a free port of the loopback interface. */
export async function listen (app: FastifyInstance): Promise<{ url: string, port: number }> {
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}`, port }
}

/**
 * A promise with its resolving function outside, for a test that waits for one thing to happen. If that never comes, the promise
 * rejects, with the line that made it.
 */
export function signal<T = void> (): { promise: Promise<T>, resolve: (value: T) => void } {
  let resolve!: (value: T) => void
  const missing = new Error('this signal of the test never came')
  const promise = new Promise<T>((_resolve, reject) => {
    const timer = setTimeout(() => reject(missing), NEVER_MS).unref()
    resolve = value => {
      clearTimeout(timer)
      _resolve(value)
    }
  })
  // Many tests keep a task waiting for a signal that they never give.
  promise.catch(() => {})
  return { promise, resolve }
}

/** Lets the event loop turn a number of times: enough for what is due at once, without looking at a clock. */
export async function turns (count = 5): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(resolve => { setImmediate(resolve) })
}

/** Holds the main thread for some milliseconds. */
export function block (ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}

/** Resolves with the progress that the task of this id has told of, and so runs. */
export async function begun (app: FastifyInstance, id: string): Promise<unknown> {
  return until(`progress of task ${id}`, async () => (await app.backgroundTasks.find(id))!.progress)
}

/** Runs a task and resolves with its result. */
export async function resultOf<Result> (app: FastifyInstance, task: TaskDefinition<undefined, Result>): Promise<unknown> {
  const handle = app.backgroundTasks.add(task)
  const { id } = handle
  await handle.settled()
  return (await app.backgroundTasks.find(id))!.result
}

/**
 * Waits until so many tasks are in these states, then for some more turns, so that one that ran twice would show, and
 * checks that no task is in another state.
 */
export async function settled (app: FastifyInstance, expected: Partial<Stats>): Promise<void> {
  const names = Object.keys(expected) as Array<keyof Stats>
  const isThere = () => {
    const stats = app.backgroundTasks.stats()
    return names.every(name => stats[name] >= expected[name]!)
  }
  const deadline = performance.now() + NEVER_MS
  while (!isThere() && performance.now() < deadline) await turns(1)
  await turns()
  const stats = app.backgroundTasks.stats()
  const found = Object.fromEntries(Object.entries(stats).filter(([name, count]) => count !== 0 && name !== 'accepted'))
  assert.deepEqual(found, expected, 'the tasks by state')
}

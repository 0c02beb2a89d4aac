import FakeTimers from '@sinonjs/fake-timers'
import { connect } from 'node:net'
import { join } from 'node:path'
import { mock } from 'node:test'
import { test, type Test } from 'tap'
import { defineTask } from '../index'
import { sqlite } from '../lib/backends/sqlite'
import { block, createApp, listen } from './support/server'
import { noSqlite } from './support/sqlite'

/*
 * Applications are tested under fake timers. Those of node:test and vitest replace all timers but `process.nextTick` and
 * `queueMicrotask`, without which Node itself stands still. vitest's are those of @sinonjs/fake-timers.
 */

interface Clock {
  tick (ms: number): void
  restore (): void
}

const VITEST = ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'setImmediate', 'clearImmediate', 'Date', 'performance', 'hrtime'] as const

const CLOCKS: Record<string, (now?: number) => Clock> = {
  'node:test' () {
    mock.timers.enable()
    return { tick: ms => mock.timers.tick(ms), restore: () => mock.timers.reset() }
  },
  vitest () {
    const clock = FakeTimers.install({ toFake: [...VITEST] })
    return { tick: ms => { clock.tick(ms) }, restore: () => clock.uninstall() }
  }
}

const real = { setImmediate, setTimeout, clearTimeout }
const DEADLINE = 30_000

function turn (): Promise<void> {
  return new Promise(resolve => { real.setImmediate(resolve) })
}

/** Fails where the fake timers would make the test wait for ever. */
async function within<T> (what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => { timer = real.setTimeout(() => reject(new Error(`still waiting for: ${what}`)), DEADLINE) })
  return Promise.race([promise, late]).finally(() => real.clearTimeout(timer))
}

async function until (what: string, holds: () => boolean): Promise<void> {
  await within(what, (async () => { while (!holds()) await turn() })())
}

/** Over a socket: `fetch` and `inject` need timers of their own. */
async function post (port: number): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  socket.write('POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{}')
  let text = ''
  for await (const chunk of socket) text += chunk
  return text
}

for (const [name, install] of Object.entries(CLOCKS)) {
  test(`under the fake timers of ${name}`, async t => {
    function fake (t: Test): Clock {
      const clock = install()
      t.teardown(() => clock.restore())
      return clock
    }

    t.test('a request is answered, its tasks run, and idle() and close() resolve', async t => {
      const { app } = await createApp(t)
      let ran = 0
      app.post('/', async request => {
        for (let count = 0; count < 100; count++) request.backgroundTasks.add(() => { ran++ })
        return 'answer'
      })
      const { port } = await listen(app)
      fake(t)
      t.match(await within('the answer', post(port)), /answer$/)
      await within('idle()', app.backgroundTasks.idle())
      t.equal(ran, 100)
      await within('idle() of an application that has nothing to do', app.backgroundTasks.idle())
      await within('close()', app.close())
      t.equal(app.backgroundTasks.stats().completed, 100)
    })

    t.test('long tasks let the event loop turn', async t => {
      const { app } = await createApp(t)
      let turns = 0
      let ran = 0
      fake(t)
      for (let count = 0; count < 10; count++) {
        app.backgroundTasks.add(() => {
          ran++
          block(20)
        })
      }
      const look = () => {
        turns++
        if (ran < 10) real.setImmediate(look)
      }
      real.setImmediate(look)
      await within('idle()', app.backgroundTasks.idle())
      t.ok(turns >= 5, `${turns} turns beside ten tasks that hold the thread for 20 ms each`)
    })

    t.test('a delay, a timeout and a backoff follow the fake clock', async t => {
      const { app } = await createApp(t)
      const clock = fake(t)
      const ran: string[] = []
      app.backgroundTasks.add({ delay: 60_000 }, () => { ran.push('delayed') })
      await within('idle()', app.backgroundTasks.idle())
      t.same(ran, [], 'it holds idle() no more than without fake timers')
      clock.tick(60_000)
      await within('the delayed task', app.backgroundTasks.idle())
      t.same(ran, ['delayed'])

      const slow = app.backgroundTasks.add({ timeout: 60_000 }, () => new Promise(() => {}))
      await until('the slow task', () => slow.state === 'running')
      clock.tick(59_999)
      for (let count = 0; count < 5; count++) await turn()
      t.equal(slow.state, 'running')
      clock.tick(1)
      await within('the slow task', app.backgroundTasks.idle())
      t.equal(slow.state, 'failed')

      let attempts = 0
      const flaky = app.backgroundTasks.add({ attempts: 2, backoff: 60_000 }, () => {
        if (++attempts === 1) throw new Error('the first attempt')
      })
      await until('the first attempt', () => flaky.state === 'pending' && attempts === 1)
      for (let count = 0; count < 5; count++) await turn()
      t.equal(attempts, 1)
      clock.tick(60_000)
      await within('the second attempt', app.backgroundTasks.idle())
      t.equal(flaky.state, 'completed')
    })

    t.test('tasks are stored in a file, and run', { skip: noSqlite }, async t => {
      const ran: number[] = []
      const task = defineTask('task', (number: number) => { ran.push(number) })
      const { app } = await createApp(t, { tasks: [task], backend: sqlite({ file: join(t.testdir(), 'tasks.db') }) })
      app.post('/', async request => {
        for (let number = 0; number < 10; number++) request.backgroundTasks.add(task, number)
        return 'answer'
      })
      const { port } = await listen(app)
      fake(t)
      t.match(await within('the answer', post(port)), /answer$/)
      await until('all tasks', () => ran.length === 10)
      await within('close()', app.close())
    })

    t.test('closeTimeout does not: a clock that stands still cannot hold the close', async t => {
      const { app } = await createApp(t, { closeTimeout: 1 })
      fake(t)
      app.backgroundTasks.add({ name: 'hangs' }, () => new Promise(() => {}))
      await within('close()', app.close())
      t.equal(app.backgroundTasks.stats().failed, 1)
    })

    t.test('a delay from before is cancelled although the clock has changed, and a delay of the fake clock after its removal', async t => {
      const { app } = await createApp(t)
      let ran = 0
      const before = app.backgroundTasks.add({ delay: 1 }, () => { ran++ })
      const clock = install()
      t.equal(await before.cancel(), true)
      const meanwhile = app.backgroundTasks.add({ delay: 1 }, () => { ran++ })
      clock.restore()
      t.equal(await meanwhile.cancel(), true)
      await new Promise(resolve => { setTimeout(resolve, 20) })
      await app.backgroundTasks.idle()
      t.equal(ran, 0)
      t.equal(app.backgroundTasks.stats().cancelled, 2)
    })
  })
}

test('under fake timers that replace all there is, tasks run as long as Node itself needs none of it', async t => {
  const { app } = await createApp(t)
  const clock = FakeTimers.install()
  try {
    const task = app.backgroundTasks.add(async () => {})
    await within('idle()', app.backgroundTasks.idle())
    t.equal(task.state, 'completed')
  } finally {
    clock.uninstall()
  }
})

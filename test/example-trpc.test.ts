import { test, type Test } from 'tap'
import { build, outbox } from '../examples/trpc'
import { listen } from './support/server'

async function start (t: Test) {
  const app = await build()
  t.teardown(() => app.close())
  const { url } = await listen(app)
  outbox.length = 0

  async function call (path: string, body: unknown, headers = {}) {
    const response = await fetch(`${url}/trpc/${path}`, {
      method: 'POST', headers: { 'content-type': 'application/json', connection: 'close', ...headers }, body: JSON.stringify(body)
    })
    const text = await response.text()
    await app.backgroundTasks.idle()
    return { status: response.status, text }
  }

  return { app, call }
}

test('a procedure adds tasks', async t => {
  const { call } = await start(t)
  t.match(await call('signUp', 'ada@example.com'), { status: 200, text: 'ada@example.com' })
  t.same(outbox, ['ada@example.com: welcome'])
})

test('an error of a procedure is a failure of its request', async t => {
  const { app, call } = await start(t)
  t.match(await call('signUp', 'ada@example.org'), { status: 403 })
  t.same(outbox, ['ada@example.org: please try again'])
  t.match(app.backgroundTasks.stats(), { completed: 1, dropped: 1 })
})

test('input that is refused adds none', async t => {
  const { app, call } = await start(t)
  t.match(await call('signUp', 'ada'), { status: 400, text: 'this is no address' })
  t.equal(app.backgroundTasks.stats().accepted, 0)
})

for (const [form, headers] of [['', {}], [' that is streamed', { 'trpc-accept': 'application/jsonl' }]] as const) {
  test(`a batch${form} of which one call fails is a failure, one without errors is none`, async t => {
    const { call } = await start(t)
    t.match(await call('signUp,signUp?batch=1', { 0: 'ada@example.com', 1: 'grace@example.com' }, headers), { status: 200 })
    t.same(outbox.splice(0), ['ada@example.com: welcome', 'grace@example.com: welcome'])
    await call('signUp,signUp?batch=1', { 0: 'ada@example.com', 1: 'grace@example.org' }, headers)
    t.same(outbox, ['ada@example.com: please try again', 'grace@example.org: please try again'])
  })
}

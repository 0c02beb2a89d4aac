import { test, type Test } from 'tap'
import { build, outbox } from '../examples/mercurius'
import { listen } from './support/server'

async function start (t: Test) {
  const app = await build()
  t.teardown(() => app.close())
  const { url } = await listen(app)
  outbox.length = 0

  async function post (body: unknown) {
    const response = await fetch(`${url}/graphql`, {
      method: 'POST', headers: { 'content-type': 'application/json', connection: 'close' }, body: JSON.stringify(body)
    })
    const answer = { status: response.status, body: await response.json() }
    await app.backgroundTasks.idle()
    return answer
  }

  return { app, post }
}

const signUp = (email: string) => ({ query: `mutation { signUp(email: "${email}") }` })

test('a resolver adds tasks', async t => {
  const { post } = await start(t)
  t.same(await post(signUp('ada@example.com')), { status: 200, body: { data: { signUp: 'ada@example.com' } } })
  t.same(outbox, ['ada@example.com: welcome'])
})

test('an error of a resolver is a failure of its request, whose status is 200', async t => {
  const { app, post } = await start(t)
  t.match(await post(signUp('ada@example.org')), { status: 200, body: { errors: [{ message: 'not for this address' }] } })
  t.same(outbox, ['ada@example.org: please try again'])
  t.match(app.backgroundTasks.stats(), { completed: 1, dropped: 1 })
})

test('a batch of which one query fails is a failure, one without errors is none', async t => {
  const { post } = await start(t)
  t.match(await post([signUp('ada@example.com'), signUp('grace@example.com')]), { status: 200 })
  t.same(outbox.splice(0).sort(), ['ada@example.com: welcome', 'grace@example.com: welcome'])
  t.match(await post([signUp('ada@example.com'), signUp('grace@example.org')]), { status: 200 })
  t.same(outbox.sort(), ['ada@example.com: please try again', 'grace@example.org: please try again'])
})

test('a query that is refused adds none', async t => {
  const { app, post } = await start(t)
  t.match(await post({ query: 'mutation { signUp }' }), { status: 400 })
  t.equal(app.backgroundTasks.stats().accepted, 0)
})

import { test, type Test } from 'tap'
import type { ListedTask, ListName } from '../types/backend'
import { nextTurn } from '../lib/shared/timers'
import type { Store } from '../lib/store/store'

/* What the first screen knows of a backend's tasks, and how old that is. The test has the clocks. */

/** A listing of a stub's tasks, which are all failed or all waiting. */
function place (t: Test, state: 'failed' | 'waiting') {
  const clock = { date: Date.now, monotonic: performance.now }
  const at = { ahead: 0, count: 150, label: 'task', pages: 0, onPage () {} }
  Date.now = () => clock.date() + at.ahead
  performance.now = () => clock.monotonic.call(performance) + at.ahead
  t.teardown(() => {
    Date.now = clock.date
    performance.now = clock.monotonic
  })
  const { Listing } = t.mockRequire<typeof import('../lib/dashboard/listing')>('../lib/dashboard/listing', {
    '../lib/shared/timers': { nextTurn, now: () => performance.now() }
  })
  const listed = (n: number) => ({ id: `${at.label} ${n}`, state, label: at.label, error: new Error('x'), since: n }) as unknown as ListedTask
  const store = {
    can: { page: true },
    list: async () => ({ counts: { running: 0, waiting: 0, delayed: 0, failed: 0, completed: 0, [state]: at.count }, tasks: [listed(at.count)] }),
    page: async (_list: ListName, offset: number, limit: number) => {
      at.pages++
      at.onPage()
      return Array.from({ length: Math.min(limit, at.count - offset) }, (_, n) => listed(at.count - offset - n))
    }
  } as unknown as Store
  const listing = new Listing(store)
  const look = async () => {
    listing.ask()
    for (let turn = 0; turn < 10; turn++) await nextTurn()
  }
  return { at, listing, look }
}

test('where the backend answers slowly, the groups are not older than half a minute and a read', async t => {
  const { at, listing, look } = place(t, 'failed')
  const grouped = async () => {
    await look()
    return listing.failures.of
  }
  const slowly = at.onPage = () => { at.ahead += 5_000 }
  t.equal(await grouped(), 150)
  at.count = 160
  at.ahead += 29_000
  t.equal(await grouped(), 150, 'a read of ten seconds is not made all the time')
  t.equal(at.pages, 2)
  at.ahead += 3_000
  t.equal(await grouped(), 160)

  at.count = 170
  at.ahead += 31_000
  at.onPage = () => {
    slowly()
    listing.forgetGroup('another', 0)
  }
  t.equal(await grouped(), 160, 'somebody has acted on tasks during the read')
  at.onPage = slowly
  t.equal(await grouped(), 170, 'so the next one does not wait')
})

for (const state of ['failed', 'waiting'] as const) {
  test(`${state} tasks that are others now, and as many as before, are grouped anew`, async t => {
    const { at, listing, look } = place(t, state)
    const names = () => state === 'failed' ? [...listing.failures.result.values()].map(({ name }) => name) : [...listing.waiting.result.keys()]
    await look()
    t.same(names(), ['task'])
    const { pages } = at
    at.ahead += 60_000
    await look()
    t.equal(at.pages, pages, 'the same ones are not read again')
    at.label = 'another'
    at.ahead += 60_000
    await look()
    t.same(names(), ['another'])
  })
}

test('once the last page is closed, nothing of its time is known any more', async t => {
  const { listing, look } = place(t, 'failed')
  await look()
  t.equal(listing.list?.counts.failed, 150)
  listing.rest()
  t.equal(listing.list, null)
  t.same([listing.failures.of, listing.waiting.of, listing.cancelled], [0, 0, 0])
})

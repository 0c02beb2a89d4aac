import { test } from 'tap'
import type { ListedTask, ListName } from '../types/backend'
import { nextTurn } from '../lib/shared/timers'
import type { Store } from '../lib/store/store'

/* The groups of the first screen are made anew from time to time. The test has the clocks. */

test('where the backend answers slowly, the groups are not older than half a minute and a read', async t => {
  const clock = { date: Date.now, monotonic: performance.now }
  let ahead = 0
  Date.now = () => clock.date() + ahead
  performance.now = () => clock.monotonic.call(performance) + ahead
  t.teardown(() => {
    Date.now = clock.date
    performance.now = clock.monotonic
  })
  const { Listing } = t.mockRequire<typeof import('../lib/dashboard/listing')>('../lib/dashboard/listing', {
    '../lib/shared/timers': { nextTurn, now: () => performance.now() }
  })
  let failed = 150
  let onPage = () => {}
  let pages = 0
  const listed = (n: number) => ({ id: String(n), state: 'failed', label: 'fails', error: new Error('x'), since: n }) as unknown as ListedTask
  const store = {
    can: { page: true },
    list: async () => ({ counts: { running: 0, waiting: 0, delayed: 0, failed, completed: 0 }, tasks: [listed(failed)] }),
    page: async (_list: ListName, offset: number, limit: number) => {
      pages++
      onPage()
      ahead += 5_000
      return Array.from({ length: Math.min(limit, failed - offset) }, (_, n) => listed(failed - offset - n))
    }
  } as unknown as Store
  const listing = new Listing(store)
  const look = async () => {
    listing.ask()
    for (let turn = 0; turn < 10; turn++) await nextTurn()
    return listing.failures.of
  }
  t.equal(await look(), 150)
  failed = 160
  ahead += 29_000
  t.equal(await look(), 150, 'a read of ten seconds is not made all the time')
  t.equal(pages, 2)
  ahead += 3_000
  t.equal(await look(), 160)

  failed = 170
  ahead += 31_000
  onPage = () => listing.forgetGroup('another', 0)
  t.equal(await look(), 160, 'somebody has acted on tasks during the read')
  onPage = () => {}
  t.equal(await look(), 170, 'so the next one does not wait')
})

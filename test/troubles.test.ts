import { test } from 'tap'
import { Troubles } from '../lib/backends/troubles'

test('a trouble of a backend is logged once, and then now and then, also if the clock is set', async t => {
  const troubles = new Troubles()
  t.equal(troubles.isNew('a'), true)
  t.equal(troubles.isNew('a'), false)
  t.equal(troubles.isNew('b'), true)
  const { now } = Date
  t.teardown(() => { Date.now = now })
  Date.now = () => now() + 3_600_000
  t.equal(troubles.isNew('a'), false, 'set forward: no time has passed')
})

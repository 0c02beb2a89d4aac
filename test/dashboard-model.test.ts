import { test } from 'tap'
import { ago, due, duration, ended, interval, milliseconds, number, plural, rate, sentences } from '../lib/dashboard/page/model/format'
import { addressOf, listRoute, queryOf, routeOf, type Route } from '../lib/dashboard/page/model/route'
import { offGround, Seconds } from '../lib/dashboard/page/model/series'
import { partsOf } from '../lib/dashboard/page/model/stack'
import { stillList } from '../lib/dashboard/page/model/still'
import { summaryOf } from '../lib/dashboard/page/model/summary'
import type { BackendView, Overview, TaskPage, TaskView } from '../lib/dashboard/protocol'

/* What the page makes of what the server tells, without a browser. */

const NOW = 1_000_000_000

function taskView (more: Partial<TaskView> = {}): TaskView {
  return {
    id: 'id', name: 'send', requestId: null, state: 'running', since: NOW - 60_000, due: null, attempt: 1, attempts: 1, progress: null, silentSince: null, why: '', behind: 0, stored: false, here: true, cancellable: true, again: false, error: null, ...more
  }
}

function overview (more: Partial<Overview> = {}): Overview {
  return {
    now: NOW,
    full: true,
    stuckAfter: 30_000,
    places: { limit: null, taken: 0, queued: 0 },
    totals: { running: 0, waiting: 0, later: 0, failed: 0 },
    backend: null,
    worker: null,
    stuck: { count: 0, first: null },
    oldest: null,
    retrying: { count: 0, next: null },
    longest: [],
    waiting: { groups: [], of: 0, more: 0 },
    failures: { groups: [], of: 0, more: 0 },
    schedules: 0,
    seconds: [],
    ...more
  }
}

const backend = (more: Partial<BackendView> = {}): BackendView => ({ name: 'SQLite', counts: null, error: null, pages: true, ...more })
const counts = { running: 0, waiting: 0, later: 0, failed: 0, completed: 0 }
const sentence = (more: Partial<Overview>) => {
  const { mood, headline, reason } = summaryOf(overview(more), NOW)
  return [mood, headline, reason]
}

test('nothing is stuck', async t => {
  t.same(sentence({ totals: { running: 1, waiting: 1_200, later: 0, failed: 0 } }), ['calm', 'Nothing is stuck: 1 task runs, 1,200 wait.', ''])
  t.same(sentence({ totals: { running: 2, waiting: 1, later: 1, failed: 0 } }), ['calm', 'Nothing is stuck: 2 tasks run, 1 waits, 1 is to be tried again or delayed.', ''])
  t.same(sentence({ totals: { running: 0, waiting: 0, later: 2, failed: 1 } }), ['warn', 'Nothing is stuck: 0 tasks run, 0 wait, 2 are to be tried again or delayed.', '1 task has failed.'])
})

test('what waits too long: the figure is that of all that wait, and not of those that are shown', async t => {
  const oldest = taskView({ state: 'waiting', since: NOW - 300_000, why: 'It waits for a worker.' })
  t.same(sentence({ oldest, totals: { running: 0, waiting: 499, later: 0, failed: 0 } }),
    ['warn', 'Tasks wait too long: “send” has been waiting for 5 min 0 s. In all, 499 tasks wait.', 'It waits for a worker.'])
  t.same(sentence({ oldest, totals: { running: 0, waiting: 1, later: 0, failed: 0 } }), ['warn', '1 task waits too long: “send” has been waiting for 5 min 0 s.', 'It waits for a worker.'])
  t.equal(sentence({ oldest: { ...oldest, since: NOW - 29_000 }, totals: { running: 0, waiting: 1, later: 0, failed: 0 } })[0], 'calm')
  t.equal(sentence({ oldest: { ...oldest, since: null } })[0], 'calm')
  const places = { limit: 2, taken: 2, queued: 7 }
  t.equal(sentence({ oldest, places, totals: { running: 2, waiting: 7, later: 0, failed: 0 } })[2], 'All 2 places of this process are taken, and 7 tasks wait.')
  t.equal(sentence({ oldest: { ...oldest, state: 'collecting', why: 'Its request has not been answered yet.' }, places })[2], 'Its request has not been answered yet.')
  t.same(sentence({ places: { limit: 1, taken: 1, queued: 1 }, totals: { running: 1, waiting: 1, later: 0, failed: 0 } }), ['warn', 'Nothing is stuck: 1 task runs, 1 waits.', 'The only place of this process is taken, and 1 task waits.'])
})

const STUCK = 'A task is called stuck after 30 s without progress.'

test('what is stuck', async t => {
  const first = taskView({ silentSince: NOW - 60_000, why: 'It has no timeout.', behind: 1, requestId: 'req-1' })
  t.same(sentence({ stuck: { count: 1, first } }), ['bad', '1 task is stuck: “send” has been running for 1 min 0 s.', `It has no timeout. 1 task of request req-1 waits for it. ${STUCK}`])
  t.same(sentence({ stuck: { count: 2, first: { ...first, behind: 2, requestId: null } } }), ['bad', '2 tasks are stuck. The first is “send”: it has been running for 1 min 0 s.', `It has no timeout. 2 tasks of its request wait for it. ${STUCK}`])
  t.equal(sentence({ stuck: { count: 1, first: { ...first, since: NOW - 600_000 } } })[1], '1 task is stuck: “send” has been running for 10 min 0 s, and its progress has stood still for 1 min 0 s.')
  t.equal(sentence({ stuck: { count: 1, first: { ...first, since: null } } })[1], '1 task is stuck: “send” has been running for 1 min 0 s.')
  t.equal(sentence({ stuck: { count: 100, first }, backend: backend({ counts: { ...counts, running: 400 } }) })[1], 'At least 100 tasks are stuck. The first is “send”: it has been running for 1 min 0 s.')
})

test('what is tried again, what has failed, a process that is paused, a backend that is away', async t => {
  const next = taskView({ state: 'retrying', due: NOW + 10_000, why: 'Error: not yet' })
  const group = { id: 'g', name: 'pay', error: 'Error: declined', count: 150, last: NOW, again: 150, dismissible: true }
  t.same(sentence({ retrying: { count: 1, next }, totals: { running: 0, waiting: 0, later: 1, failed: 150 }, failures: { groups: [group], of: 150, more: 0 } }), [
    'warn', 'Nothing is stuck: 0 tasks run, 0 wait, 1 is to be tried again or delayed.',
    '1 task has failed and is to be tried again, the next one “send” in 10 s: Error: not yet. 150 tasks have failed, the newest “pay”: Error: declined.'
  ])
  t.equal(sentence({ retrying: { count: 2, next: { ...next, due: NOW, why: '' } } })[2], '2 tasks have failed and are to be tried again, the next one “send”.')
  t.match(sentence({ retrying: { count: 100, next: { ...next, due: null } }, backend: backend({ counts: { ...counts, later: 500 } }) })[2], /^At least 100 tasks have failed/)
  t.same(sentence({ worker: { paused: true, pausable: true }, backend: backend() }), ['warn', 'Nothing is stuck: 0 tasks run, 0 wait.', 'This process is paused: it takes no tasks of SQLite.'])
  t.same(sentence({ backend: backend({ error: 'disk full' }) }), ['bad', 'SQLite does not answer: which tasks it has cannot be seen.', 'It says: disk full.'])
  t.same(sentence({ backend: backend({ error: 'disk full' }), stuck: { count: 1, first: taskView({ silentSince: NOW - 60_000 }) } })[2], `It says: disk full. 1 task is stuck: “send” has been running for 1 min 0 s. ${STUCK}`)
})

test('figures and times', async t => {
  t.equal(number(1_234_567), '1,234,567')
  t.same([plural(1, 'task', 'tasks'), plural(0, 'task', 'tasks')], ['1 task', '0 tasks'])
  t.same([-5, 999, 59_999, 60_000, 3_600_000, 90_000_000].map(duration), ['< 1 s', '< 1 s', '59 s', '1 min 0 s', '1 h 0 min', '1 d 1 h'])
  t.same([ago(NOW - 2_000, NOW), ago(null, NOW), due(NOW + 2_000, NOW), due(NOW, NOW), due(null, NOW)], ['2 s ago', '–', 'in 2 s', 'now', '–'])
  t.same([0, 0.25, 9.9, 12.4].map(rate), ['0', '0.3', '9.9', '12'])
  t.same([0, 999, 1_500, 60_000, 90_000].map(milliseconds), ['0 ms', '999 ms', '1.5 s', '1 min', '1.5 min'])
  t.same([1_500, 1_000, 90_000, 60_000, 7_200_000, 86_400_000].map(interval), ['every 1,500 ms', 'every second', 'every 90 seconds', 'every minute', 'every 2 hours', 'every day'])
  t.same([ended('so'), ended('so.'), ended('cut …')], ['so.', 'so.', 'cut …'])
  t.equal(sentences('a.', '', null, false, undefined, 'b.'), 'a. b.')
})

test('addresses: each route has one, and what makes no sense is the first screen', async t => {
  const routes: Array<[string, Route]> = [
    ['#/schedules', { page: 'schedules' }],
    ['#/', { page: 'overview' }],
    ['#/task/a%2Fb', { page: 'task', id: 'a/b' }],
    ['#/failed', listRoute('failed')],
    ['#/failed?order=oldest', listRoute('failed', { newestFirst: false })],
    ['#/running?order=newest', listRoute('running', { newestFirst: true })],
    ['#/waiting?search=a+b&offset=50', listRoute('waiting', { search: 'a b', offset: 50 })],
    ['#/failed?group=12ab', listRoute('failed', { group: '12ab' })]
  ]
  for (const [address, route] of routes) {
    t.equal(addressOf(route), address)
    t.same(routeOf(address), route, address)
  }
  for (const hash of ['', '#', '#/nothing', '#/task', '#/task/']) t.same(routeOf(hash), { page: 'overview' }, hash)
  t.same(routeOf('#/task/%E0%A4%A'), { page: 'task', id: '%E0%A4%A' })
  t.match(routeOf('#/waiting?offset=-1'), { offset: 0 })
  t.match(routeOf('#/waiting?offset=x'), { offset: 0 })
  t.equal(queryOf(listRoute('completed')), '')
})

test('a stack, with the frames folded that are not of the user', async t => {
  const stack = 'Error: x\n    at send (/srv/app/mail.js:1:1)\n    at run (/srv/app/node_modules/fastify-background-tasks/dist/lib/run/call.js:9:80)\n    at async node:internal/x:1:1\n    at main (/srv/app/index.js:2:2)'
  t.same(partsOf(stack).map(({ folded, lines }) => [folded, lines.length]), [[false, 2], [true, 2], [false, 1]])
  t.same(partsOf('Error: x\n    at run (/clone/lib/run/call.ts:1:1)', '/clone/lib/').map(({ folded }) => folded), [false, true])
  t.same(partsOf('a string'), [{ folded: false, lines: ['a string'] }])
})

test('the last five minutes, second by second: no mean where nothing began', async t => {
  const seconds = new Seconds()
  const now = 10_000_000
  seconds.add([{ at: 9_998, completed: 5, failed: 1, mean: 2, longest: 3 }, { at: 9_999, completed: 0, failed: 0, mean: null, longest: 40_000 }], now, true)
  const { at, completed, failed, mean, longest } = seconds.series(now)
  t.equal(at.length, 300)
  t.same([at.at(-1), completed.at(-2), failed.at(-2), mean.at(-2), mean.at(-1), longest.at(-1), mean[0], longest[0]], [9_999, 5, 1, 2, null, 40_000, null, 0])
  t.equal(seconds.rate(now), 1)
  seconds.add([{ at: 10_299, completed: 1, failed: 0, mean: null, longest: 0 }], 10_300_000, false)
  t.equal(seconds.series(10_300_000).completed.reduce((sum, value) => sum + value), 1, 'what is older is forgotten')
  t.same(offGround([0, 0, 0, 4, 0, 0, 0]), [null, null, 0, 4, 0, null, null])
})

test('a list that stands still', async t => {
  const page = (...tasks: TaskView[]): TaskPage => ({ tasks, next: null, looked: tasks.length, note: '' })
  const [a, b, c] = ['a', 'b', 'c'].map(id => taskView({ id })) as [TaskView, TaskView, TaskView]
  t.same(stillList(page(a, b), page(c, { ...b, attempt: 2 })), { rows: [{ task: a, gone: true }, { task: { ...b, attempt: 2 }, gone: false }], fresh: 1, gone: 1 })
})

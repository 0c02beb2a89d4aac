import Fastify from 'fastify'
import { test } from 'tap'
import backgroundTasks, { defineTask, type BackgroundTasksOptions } from '../index'
import { celery } from '../lib/backends/celery'
import { StubBackend } from './support/stub-backend'

const report = defineTask('report', async (_payload?: unknown) => {})
const local = defineTask('local', async (_payload?: unknown) => {}, { local: true })
const stranger = defineTask('report', async () => {})

const register = async (options: Record<string, unknown>) => {
  const app = Fastify()
  try {
    await app.register(backgroundTasks, { tasks: [report, local], ...options } as BackgroundTasksOptions)
    return await app.backgroundTasks.schedules()
  } finally {
    await app.close()
  }
}

const INVALID: Array<[schedules: unknown, code: string, message: string]> = [
  [[], 'FST_BGT_INVALID_OPTION', "The plugin option 'schedules' must be an object with a schedule for each id, received []"],
  [{ a: 'nightly' }, 'FST_BGT_INVALID_OPTION', "The plugin option 'schedules.a' must be an object, received a string"],
  [{ a: { task: report } }, 'FST_BGT_INVALID_OPTION', "The plugin option 'schedules.a' must be an object with either 'cron' or 'every', received neither"],
  [{ a: { task: report, cron: '* * * * *', every: 1_000 } }, 'FST_BGT_INVALID_OPTION', "'schedules.a' must be an object with either 'cron' or 'every', received both"],
  [{ a: { task: report, every: 999 } }, 'FST_BGT_INVALID_OPTION', "'schedules.a.every' must be a whole number of milliseconds from 1000 to 315360000000, received 999"],
  [{ a: { task: report, every: 1_000.5 } }, 'FST_BGT_INVALID_OPTION', 'received 1000.5'],
  [{ a: { task: report, every: 1e12 } }, 'FST_BGT_INVALID_OPTION', 'received 1000000000000'],
  [{ a: { task: report, every: '1h' } }, 'FST_BGT_INVALID_OPTION', "received '1h'"],
  [{ a: { task: report, cron: 5 } }, 'FST_BGT_INVALID_OPTION', "'schedules.a.cron' must be an expression of five or six fields, received 5"],
  [{ a: { task: report, cron: '61 * * * *' } }, 'FST_BGT_INVALID_OPTION', "'schedules.a.cron' must be an expression of five or six fields, received '61 * * * *' (CronPattern: Invalid value for minute: 61)"],
  [{ a: { task: report, cron: '* * * *' } }, 'FST_BGT_INVALID_OPTION', "received '* * * *' ("],
  [{ a: { task: report, cron: '* * * * * * 2030' } }, 'FST_BGT_INVALID_OPTION', "received '* * * * * * 2030' ("],
  [{ a: { task: report, cron: '2030-01-01 00:00' } }, 'FST_BGT_INVALID_OPTION', "must be an expression of five or six fields, received '2030-01-01 00:00'"],
  [new Map([['a', { task: report, every: 1_000 }]]), 'FST_BGT_INVALID_OPTION', "The plugin option 'schedules' must be an object with a schedule for each id"],
  [{ a: { task: report, cron: '2030-01-01T00:00:00' } }, 'FST_BGT_INVALID_OPTION', "must be an expression of five or six fields, received '2030-01-01T00:00:00'"],
  [{ a: { task: report, cron: '0 0 30 2 *' } }, 'FST_BGT_INVALID_OPTION', "'schedules.a.cron' must be an expression that is due some time, received '0 0 30 2 *'"],
  [{ a: { task: report, cron: '* * * * *', timezone: 'Mars/Olympus' } }, 'FST_BGT_INVALID_OPTION', "'schedules.a.timezone' must be the IANA name of a time zone, received 'Mars/Olympus'"],
  [{ a: { task: report, cron: '* * * * *', timezone: '+02:00' } }, 'FST_BGT_INVALID_OPTION', "received '+02:00'"],
  [{ a: { task: report, every: 1_000, timezone: 'UTC' } }, 'FST_BGT_INVALID_OPTION', "'schedules.a.timezone' must be left out with 'every', which is the same time everywhere, received 'UTC'"],
  [{ a: { task: report, every: 1_000, overlap: 'no' } }, 'FST_BGT_INVALID_OPTION', "'schedules.a.overlap' must be a boolean, received 'no'"],
  [{ a: { task: report, evry: 1_000 } }, 'FST_BGT_UNKNOWN_OPTION', "'schedules.a.evry'; the options are task, payload, cron, timezone, every, overlap; did you mean 'every'?"],
  [{ a: { every: 1_000 } }, 'FST_BGT_INVALID_OPTION', "'schedules.a.task' must be a defined task, received undefined"],
  [{ a: { task: async () => {}, every: 1_000 } }, 'FST_BGT_INVALID_OPTION', "'schedules.a.task' must be a defined task, received [AsyncFunction: task]"],
  [{ a: { task: stranger, every: 1_000 } }, 'FST_BGT_UNKNOWN_TASK', "list its definition in the plugin option 'tasks', which received [ 'report', 'local' ]"],
  [{ a: { task: report, every: 1_000, payload: { at: new Date() } } }, 'FST_BGT_INVALID_PAYLOAD', 'payload.at received'],
  [{ 'a:b': { task: report, every: 1_000 } }, 'FST_BGT_INVALID_OPTION', "'schedules' must be an object whose ids have 1 to 100 letters, digits, '.', '_', '-' and '/', received 'a:b'"],
  [{ '': { task: report, every: 1_000 } }, 'FST_BGT_INVALID_OPTION', "received ''"],
  [{ ['a'.repeat(101)]: { task: report, every: 1_000 } }, 'FST_BGT_INVALID_OPTION', 'ids have 1 to 100 letters']
]

test('a wrong schedule is refused at registration, with what was received', async t => {
  for (const [schedules, code, message] of INVALID) {
    const error = await register({ schedules }).then(() => null, error => error)
    t.equal(error?.code, code, message)
    t.ok(error?.message.includes(message), `${error?.message}: ${message}`)
  }
})

test('an expression keeps its time zone: the given one, else that of the process', async t => {
  const zone = process.env.TZ
  t.teardown(() => { if (zone === undefined) delete process.env.TZ; else process.env.TZ = zone })
  const schedules = {
    a: { task: report, cron: ' 0 3 * * * ', timezone: 'Europe/Berlin' },
    b: { task: report, cron: '0 3 * * *' },
    'Größe/1.b_c-d': { task: report, every: 60_000 }
  }
  for (const [own, expected] of [['America/New_York', 'America/New_York'], ['UTC', 'UTC'], ['No/Where', 'UTC']]) {
    process.env.TZ = own
    t.match(await register({ schedules }), [
      { id: 'a', task: 'report', cron: '0 3 * * *', timezone: 'Europe/Berlin', every: null },
      { id: 'b', task: 'report', cron: '0 3 * * *', timezone: expected, every: null },
      { id: 'Größe/1.b_c-d', task: 'report', cron: null, timezone: null, every: 60_000 }
    ])
  }
})

test('a backend that keeps no schedules refuses them, unless their tasks are local', async t => {
  const schedules = { a: { task: report, every: 60_000 } }
  for (const [backend, name, reason] of [
    [celery({ broker: 'amqp://localhost' }), 'Celery on RabbitMQ', 'Celery has a scheduler of its own: let celery beat send the task'],
    [new StubBackend(), 'stub', 'it keeps no schedules']
  ] as const) {
    await t.rejects(register({ schedules, backend }), { code: 'FST_BGT_UNSUPPORTED', message: `The backend '${name}' does not have the plugin option 'schedules': ${reason}` })
  }
  t.match(await register({ schedules: { a: { task: local, every: 60_000 } }, backend: new StubBackend() }), [{ id: 'a' }])
  t.match(await register({ schedules, backend: new StubBackend(), mode: 'capture' }), [{ id: 'a', last: null, lastId: null, skipped: 0 }])
})

test('no task has the dedupe id of a schedule', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(backgroundTasks, { tasks: [report] })
  t.throws(() => app.backgroundTasks.add({ dedupe: '$schedule:a' }, report), { code: 'FST_BGT_INVALID_TASK_OPTION' })
})

test('the log line of the registration has the ids of the schedules', async t => {
  const lines: string[] = []
  const app = Fastify({ logger: { level: 'debug', stream: { write: (line: string) => { lines.push(line) } } } })
  t.teardown(() => app.close())
  await app.register(backgroundTasks, { tasks: [report], schedules: { nightly: { task: report, every: 60_000 } } })
  t.match(lines.map(line => JSON.parse(line)).find(({ msg }) => msg === 'background tasks registered'), { backgroundTasks: { schedules: ['nightly'] } })
})

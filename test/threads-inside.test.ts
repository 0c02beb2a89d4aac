import { MessageChannel, receiveMessageOnPort, type MessagePort } from 'node:worker_threads'
import { test, type Test } from 'tap'
import type { ThreadMessage, ThreadRequest } from '../lib/threads/messages'
import { defineTask } from '../index'
import run, { check } from '../lib/threads/worker'
import { encodeThrown } from '../lib/threads/thrown'
import { moduleFile, typeScriptFile } from './support/threads'

// The code of a thread, run on the main one, where the coverage sees it.

let number = 0

const usual = {
  id: '1',
  name: 'task',
  attempt: 1,
  requestId: null,
  carrier: null,
  payload: { json: undefined },
  level: 'info',
  levels: ['info', 'error'],
  timed: true,
  stays: false,
  over: false
} as const

/** Runs an attempt, and resolves with all that it says. `talk` is given the other end of the port. */
async function attempt (t: Test, text: string, request: Partial<ThreadRequest> = {}, talk: (port: MessagePort, number: number) => void = () => {}) {
  const { port1, port2 } = new MessageChannel()
  t.teardown(() => port1.close())
  const said: ThreadMessage[] = []
  port1.on('message', message => { said.push(message) })
  number++
  talk(port1, number)
  await run({
    ...usual,
    number,
    file: new URL(`file://${moduleFile(t, text)}`).href,
    channel: { port: port2, begun: new Int32Array(new SharedArrayBuffer(4)), tasks: new Map() },
    ...request
  })
  for (let next = receiveMessageOnPort(port1); next !== undefined; next = receiveMessageOnPort(port1)) said.push(next.message)
  return said
}

test('a payload, as JSON and as it is, and a result', async t => {
  const echo = 'export default async payload => [payload]'
  t.same(await attempt(t, echo), [{ type: 'arrived' }, { type: 'completed', result: [undefined], added: 0 }])
  t.same(await attempt(t, echo, { payload: { json: '{"a":1}' } }), [{ type: 'arrived' }, { type: 'completed', result: [{ a: 1 }], added: 0 }])
  t.same(await attempt(t, echo, { payload: { value: new Map() } }), [{ type: 'arrived' }, { type: 'completed', result: [new Map()], added: 0 }])
})

test('a result that is no object', async t => {
  for (const result of [null, undefined, 5, 'text', true, 10n]) {
    const text = typeof result === 'bigint' ? '10n' : JSON.stringify(result)
    t.strictSame(await attempt(t, `export default () => ${text}`), [{ type: 'arrived' }, { type: 'completed', result, added: 0 }])
  }
})

test('an error, and a result that cannot be cloned', async t => {
  t.match(await attempt(t, 'export default () => { throw Object.assign(new Error("boom"), { code: "E" }) }'), [
    { type: 'arrived' }, { type: 'failed', thrown: { kind: 'error', message: 'boom', fields: { code: 'E' } } }
  ])
  t.match(await attempt(t, 'export default () => () => {}'), [{ type: 'arrived' }, { type: 'failed', thrown: { fields: { code: 'FST_BGT_UNCLONABLE' } } }])
  t.match(await attempt(t, 'export default () => ({ get a () { throw null } })'), [
    { type: 'arrived' }, { type: 'failed', thrown: { message: /received null/, fields: { code: 'FST_BGT_UNCLONABLE' } } }
  ])
  t.match(await attempt(t, 'export const none = 1'), [{ type: 'arrived' }, { type: 'failed', thrown: { fields: { code: 'FST_BGT_INVALID_MODULE' } } }])
})

test('the signal, whose reason comes back as the same object', async t => {
  const text = `
    import { once } from 'node:events'
    export default async (payload, { signal, progress }) => {
      progress('waits')
      await once(signal, 'abort')
      throw new Error('aborted', { cause: signal.reason })
    }`
  const said = await attempt(t, text, {}, (port, number) => {
    port.on('message', ({ type }) => {
      if (type !== 'progress') return
      port.postMessage({ type: 'abort', number: number - 1, reason: encodeThrown(new Error('of the attempt before, too late')) })
      port.postMessage({ type: 'abort', number, reason: encodeThrown(new Error('enough')) })
    })
  })
  t.match(said, [{ type: 'arrived' }, { type: 'progress' }, { type: 'failed', thrown: { kind: 'error', message: 'aborted', nested: { cause: { kind: 'reason' } } } }])
})

test('an attempt that is aborted while its module loads does not begin', async t => {
  const text = `
    import { setTimeout as sleep } from 'node:timers/promises'
    await sleep(100)
    export default (payload, { progress }) => progress('called')`
  const said = await attempt(t, text, {}, (port, number) => { port.postMessage({ type: 'abort', number, reason: encodeThrown(new Error('enough')) }) })
  t.match(said, [{ type: 'arrived' }, { type: 'failed', thrown: { kind: 'reason' } }])
  t.equal(said.length, 2)
})

test('an attempt that has ended before it came to a thread does not begin', async t => {
  const file = new URL(`file://${moduleFile(t, 'export default () => { globalThis.ranAfterItsEnd = true }')}`).href
  await run({ ...usual, number: ++number, file, channel: null, over: true })
  t.notOk('ranAfterItsEnd' in globalThis)
})

test('a thread that stays runs the attempts that follow through the channel, until it is to return', async t => {
  const { port1, port2 } = new MessageChannel()
  const begun = new Int32Array(new SharedArrayBuffer(4))
  const said: unknown[] = []
  const file = new URL(`file://${moduleFile(t, 'export default n => n === 1 ? () => {} : n')}`).href
  const request = (n: number, stays = true) => ({ ...usual, number: ++number, file, payload: { value: n }, timed: false, stays, channel: null })
  const first = number + 1
  let sent = 0
  port1.on('message', message => {
    said.push({ ...message, begun: begun[0] - first })
    // A value that cannot be read is followed by one that can.
    if (message.type !== 'failed') port1.postMessage(sent++ < 2 ? { type: 'run', request: request(sent) } : { type: 'return' })
  })
  await run({ ...request(0), channel: { port: port2, begun, tasks: new Map() } })
  t.match(said, [
    { type: 'completed', result: 0, begun: 0 },
    { type: 'failed', thrown: { fields: { code: 'FST_BGT_UNCLONABLE' } }, begun: 1 },
    { type: 'ended', number: first + 1 },
    { type: 'completed', result: 2, begun: 2 }
  ])
  t.equal(said.length, 4)
  port1.removeAllListeners('message').once('message', () => { port1.postMessage({ type: 'run', request: request(4, false) }) })
  await run(request(3))
  t.match(receiveMessageOnPort(port1), { message: { type: 'completed', result: 4 } })
  t.equal(receiveMessageOnPort(port1), undefined, 'the return of the thread follows the last one, which is not to stay')
  port1.close()
})

test('errors that have errors in them', async t => {
  const said = await attempt(t, `
    export default () => { throw new AggregateError([...Array.from({ length: 150 }, (_, n) => new RangeError(String(n))), 'b'], 'all') }`)
  const { thrown } = said.at(-1) as unknown as { thrown: { message: string, nested: { errors: { items: object[] } } } }
  t.equal(thrown.message, 'all')
  const { items } = thrown.nested.errors
  t.match([items[0], items.at(-1)], [{ kind: 'error', message: '0' }, { kind: 'value', value: 'b' }])
  t.ok(items.length <= 101, 'not without end')
})

test('lists in an error, with errors in them and without', async t => {
  const said = await attempt(t, `
    export default () => { throw Object.assign(new Error('x'), { parts: [new RangeError('in it')], numbers: [1, 2] }) }`)
  t.match(said.at(-1), { thrown: { fields: { numbers: [1, 2] }, nested: { parts: { kind: 'list', items: [{ message: 'in it' }] } } } })
})

test('errors that are the cause of each other, deeper than anybody reads', async t => {
  const said = await attempt(t, `
    export default () => {
      let error = new Error('0')
      for (let n = 1; n <= 50; n++) error = new Error(String(n), { cause: error })
      throw error
    }`)
  let depth = 0
  let { thrown } = said.at(-1) as unknown as { thrown: any }
  for (; thrown !== undefined; thrown = thrown.nested.cause) depth++
  t.ok(depth >= 5 && depth < 20, `${depth} deep`)
})

test('progress, log lines, and no DI scope', async t => {
  const said = await attempt(t, `
    export default (payload, { log, progress, diScope }) => {}`)
  t.match(said, [{ type: 'arrived' }, { type: 'failed', thrown: { fields: { code: 'FST_BGT_NO_DI_SCOPE' } } }])
  t.match(await attempt(t, `
    export default (payload, { log, progress }) => {
      progress(5)
      log.debug('not enabled')
      log.info('text %s', 1)
      log.child({ a: 1 }).error(new Error('boom'))
      log.info({ fn () {} })
      log.info(undefined, 'undefined first')
      log.info(null, 'null first')
      log.info({ url: new URL('http://localhost/a'), bad: { toJSON () { throw new Error('no') } } })
      return log.isLevelEnabled('debug')
    }`), [
    { type: 'arrived' },
    { type: 'progress', value: 5 },
    { type: 'log', level: 'info', fields: {}, errors: {}, rest: ['text %s', 1] },
    { type: 'log', level: 'error', fields: { a: 1 }, errors: { err: { kind: 'error', message: 'boom' } }, rest: [] },
    { type: 'log', level: 'info', fields: { fn: '[Function: fn]' } },
    { type: 'log', fields: {}, rest: ['undefined first'] },
    { type: 'log', fields: {}, rest: ['null first'] },
    { type: 'log', fields: { url: 'http://localhost/a', bad: '{ toJSON: [Function: toJSON] }' } },
    { type: 'completed', result: false }
  ])
})

test('the check of a module', async t => {
  const check1 = (file: string) => check({ name: 'task', file: new URL(`file://${file}`).href })
  t.equal(await check1(moduleFile(t, 'export default () => {}')), null)
  t.match(await check1('/does/not/exist.js'), { fields: { code: 'FST_BGT_INVALID_MODULE' } })
  for (const [text, message] of [
    ['throw "text"', /'text'/], ['throw new Error("boom")', /boom/], ['export default 1', /received 1/], ['export default {__esModule: true, default: 2}', /received 2/]
  ] as const) {
    t.match(await check1(moduleFile(t, text)), { message })
  }
  t.match(await check1(typeScriptFile(t)), { message: /compile it to JavaScript/ })
})

test('an unreadable error says so', async t => {
  const error = Object.defineProperty(new Error('x'), 'stack', { get () { throw new Error('no') } })
  t.same(encodeThrown(error), { kind: 'value', value: 'an error that cannot be read' })
  t.match(encodeThrown(Object.assign(new Error('x'), { stack: undefined })), { stack: undefined })
  t.same(encodeThrown(Symbol('s')), { kind: 'value', value: 'Symbol(s)' })
})

test('what a handler adds: the main thread is told, and what is refused is refused at once', async t => {
  const { port1, port2 } = new MessageChannel()
  t.teardown(() => port1.close())
  const said: ThreadMessage[] = []
  const text = `
    export default async (payload, ctx) => {
      const [child, cloned, stranger] = ['child', 'cloned', 'stranger'].map(name => globalThis.defineTaskForTest(name))
      const refusal = add => { try { add() } catch ({ code }) { return code } }
      const handle = ctx.add({ name: 'renamed', delay: 1 }, child, { n: 1 })
      const { id, name } = ctx.add(cloned, new Map())
      globalThis.lateForTest = () => refusal(() => ctx.add(child))
      return [handle.name, name, id.length, ...[
        () => handle.state, () => handle.cancel(), () => handle.settled(), () => ctx.add('child'), () => ctx.add(function send () {}), () => ctx.add(child, 1, 2),
        () => ctx.add(stranger), () => ctx.add({ key: 'a' }, child), () => ctx.add(cloned, () => {})
      ].map(refusal)]
    }`
  Object.assign(globalThis, { defineTaskForTest: defineTask })
  await run({
    ...usual,
    number: ++number,
    file: new URL(`file://${moduleFile(t, text)}`).href,
    channel: { port: port2, begun: new Int32Array(new SharedArrayBuffer(4)), tasks: new Map([['child', false], ['cloned', true]]) }
  })
  for (let next = receiveMessageOnPort(port1); next !== undefined; next = receiveMessageOnPort(port1)) said.push(next.message)
  t.match(said, [
    { type: 'arrived' },
    { type: 'add', addition: { task: 'child', options: { name: 'renamed', delay: 1 }, payload: { json: '{"n":1}' }, carrier: null } },
    { type: 'add', addition: { task: 'cloned', options: null, payload: { value: new Map() } } },
    {
      type: 'completed',
      added: 2,
      result: [
        'renamed', 'cloned', 36, 'FST_BGT_NOT_ON_THREAD', 'FST_BGT_NOT_ON_THREAD', 'FST_BGT_NOT_ON_THREAD', 'FST_BGT_INVALID_TASK', 'FST_BGT_NOT_ON_THREAD', 'FST_BGT_INVALID_TASK',
        'FST_BGT_UNKNOWN_TASK', 'FST_BGT_INVALID_TASK_OPTION', 'FST_BGT_UNCLONABLE'
      ]
    }
  ])
  t.equal((globalThis as unknown as { lateForTest (): string }).lateForTest(), 'FST_BGT_NO_ATTEMPT')
})

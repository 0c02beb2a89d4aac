import { test } from 'tap'
import { defineTask } from '../index'
import { createApp, settled } from './support/server'
import { moduleFile } from './support/threads'

const ECHO = 'export default async payload => payload'
const MOVED = `
  export default async ({ image, other }, { attempt }) => {
    if (attempt === 1) throw new Error('once more')
    return [image.length, image[0], other.length]
  }`

test('the payload is JSON, as for every defined task', async t => {
  const echo = defineTask<unknown, unknown>('echo', moduleFile(t, ECHO))
  const { app } = await createApp(t, { tasks: [echo] })
  t.throws(() => app.backgroundTasks.add(echo, { at: new Date(0) }), { code: 'FST_BGT_INVALID_PAYLOAD', message: /payload\.at/ })
  const payload = { list: [1] }
  const { id } = app.backgroundTasks.add(echo, payload)
  payload.list.push(2)
  await settled(app, { completed: 1 })
  t.same((await app.backgroundTasks.find(id))!.result, { list: [1] })
})

test('`local: true`: a structured clone, taken at the add', async t => {
  const echo = defineTask<unknown, unknown>('echo', moduleFile(t, ECHO), { local: true })
  const { app } = await createApp(t, { tasks: [echo] })
  const payload = { at: new Date(0), map: new Map([['a', [1]]]), bytes: new Uint8Array([1, 2]), none: undefined }
  const { id } = app.backgroundTasks.add(echo, payload)
  payload.map.get('a')!.push(2)
  payload.bytes[0] = 9
  await settled(app, { completed: 1 })
  t.same((await app.backgroundTasks.find(id))!.result, { at: new Date(0), map: new Map([['a', [1]]]), bytes: new Uint8Array([1, 2]), none: undefined })
})

test('what cannot be cloned is refused at the add, with nothing moved', async t => {
  const echo = defineTask<any, unknown>('echo', moduleFile(t, ECHO), { local: true, transfer: ({ bytes }) => [bytes] })
  const { app } = await createApp(t, { tasks: [echo] })
  const bytes = new Uint8Array(3)
  t.throws(() => app.backgroundTasks.add(echo, { bytes, log () {} }), {
    code: 'FST_BGT_UNCLONABLE', message: /^The payload of the background task 'echo' must be .* received .*\[Function: log\].* could not be cloned/
  })
  t.equal(bytes.length, 3)
  t.equal(app.backgroundTasks.stats().accepted, 0)
})

test('`transfer` moves buffers out of the caller\'s hands; each attempt finds them, the last one moves them on', async t => {
  const moved = defineTask<{ image: Uint8Array, other: Uint8Array }, number[]>('moved', moduleFile(t, MOVED), {
    local: true, attempts: 2, transfer: ({ image }) => [image, image.buffer]
  })
  const { app } = await createApp(t, { tasks: [moved] })
  const payload = { image: new Uint8Array(1000).fill(7), other: new Uint8Array(10) }
  const { id } = app.backgroundTasks.add(moved, payload)
  t.equal(payload.image.length, 0)
  t.equal(payload.other.length, 10)
  await settled(app, { completed: 1, retried: 1 })
  t.same((await app.backgroundTasks.find(id))!.result, [1000, 7, 10])
})

test('a small Buffer, which shares its memory with others, is copied', async t => {
  const length = defineTask<{ image: Buffer }, number>('length', moduleFile(t, 'export default ({ image }) => image.length'), {
    local: true, transfer: ({ image }) => [image]
  })
  const { app } = await createApp(t, { tasks: [length] })
  const image = Buffer.from('a small one')
  const shared = Buffer.from(new SharedArrayBuffer(5))
  const { id } = app.backgroundTasks.add(length, { image })
  app.backgroundTasks.add(length, { image: shared })
  await settled(app, { completed: 2 })
  t.equal(image.toString(), 'a small one')
  t.equal(shared.length, 5)
  t.equal((await app.backgroundTasks.find(id))!.result, 11)
})

test('a buffer that an earlier `add` has moved is refused, and says why; one that is just empty is not', async t => {
  const bytes = defineTask<ArrayBuffer | Uint8Array, number>('bytes', moduleFile(t, 'export default bytes => bytes.byteLength'), {
    local: true, transfer: payload => [payload]
  })
  const { app } = await createApp(t, { tasks: [bytes] })
  for (const payload of [new ArrayBuffer(5), new Uint8Array(5)]) {
    app.backgroundTasks.add(bytes, payload)
    t.throws(() => app.backgroundTasks.add(bytes, payload), { code: 'FST_BGT_UNCLONABLE', message: /An ArrayBuffer is detached/ })
  }
  app.backgroundTasks.add(bytes, new Uint8Array(0))
  await settled(app, { completed: 3 })
})

test('`transfer` that returns something else is refused at the add, and where it has no meaning at the definition', async t => {
  const file = moduleFile(t, ECHO)
  for (const returned of [undefined, 5, ['text'], [null], [{}]]) {
    const echo = defineTask('echo', file, { local: true, transfer: () => returned as never })
    const { app } = await createApp(t, { tasks: [echo] })
    t.throws(() => app.backgroundTasks.add(echo), { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'transfer' must be a function that returns an array/ })
  }
  const transfer = () => []
  for (const define of [
    () => defineTask('task', file, { transfer }),
    () => defineTask('task', file, { local: true, transfer: 5 as never }),
    () => defineTask('task', () => {}, { local: true, transfer } as never)
  ]) {
    t.throws(define, { code: 'FST_BGT_INVALID_TASK_OPTION', message: /'transfer' must be a function, and belongs to/ })
  }
})

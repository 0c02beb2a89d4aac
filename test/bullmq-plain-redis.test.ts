import { randomUUID } from 'node:crypto'
import { Queue, type JobJson } from 'bullmq'
import Redis from 'ioredis'
import { test, type Test } from 'tap'
import { PlainRedisWriter } from '../lib/backends/bullmq/redis/plain-writer'
import { noOwnRedis, noRedis, ownRedis, redis } from './support/services'
import { until } from './support/until'

// Tasks that BullMQ's public calls store in Redis: what is promised holds without a script of this package.

async function open (t: Test, url: string, options: object = {}): Promise<{ queue: Queue, client: Redis, writer: PlainRedisWriter }> {
  const queue = new Queue(`plain-${randomUUID()}`, { connection: { url, ...options } })
  queue.on('error', () => {})
  await queue.getVersion()
  t.teardown(() => queue.close())
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  return { queue, client, writer: new PlainRedisWriter(queue) }
}

function job (id: string, more: Partial<JobJson> = {}): JobJson {
  return { id, name: 'task', data: '{"payload":"1"}', opts: { attempts: 1 }, timestamp: Date.now(), ...more } as JobJson
}

const keyed = (id: string, dedupe: string) => job(id, { opts: { attempts: 1, deduplication: { id: dedupe } }, deduplicationId: dedupe })
const delayed = (id: string) => job(id, { opts: { attempts: 1, delay: 60_000 } })
const waiting = async (client: Redis, { name }: Queue) => (await client.lrange(`bull:${name}:wait`, 0, -1)).reverse()

test('the ids of each request, in its order; a dedupe id that is taken gives the id of the task that has it', { skip: noRedis }, async t => {
  const { queue, client, writer } = await open(t, (await redis(t)).url)
  t.same(await writer.add([[job('a')], [job('b'), delayed('c'), job('d')], [keyed('e', 'x'), job('f')]]), [['a'], ['b', 'c', 'd'], ['e', 'f']])
  t.same(await writer.add([[keyed('g', 'x')], [job('h'), keyed('i', 'x')]]), [['e'], ['h', 'e']])
  t.same((await waiting(client, queue)).sort(), ['a', 'b', 'd', 'e', 'f', 'h'])
  t.same(await client.zrange(`bull:${queue.name}:delayed`, 0, '-1'), ['c'])
})

test('a request whose task Redis refuses is refused alone, and its other tasks are removed', { skip: noRedis }, async t => {
  const { queue, client, writer } = await open(t, (await redis(t)).url)
  await client.lpush(`bull:${queue.name}:de:broken`, 'no text')
  t.match(await writer.add([[job('a')], [job('b'), keyed('c', 'broken'), job('d')], [job('e'), job('f')]]), [['a'], { message: /WRONGTYPE/ }, ['e', 'f']])
  await until('the others of its request are removed', async () => !(await waiting(client, queue)).some(id => id === 'b' || id === 'd'))
  t.same((await waiting(client, queue)).sort(), ['a', 'e', 'f'])
})

test('a full server refuses a request before it has stored a part of it', { skip: noOwnRedis }, async t => {
  const { queue, client, writer } = await open(t, (await ownRedis(t)).url)
  await client.config('SET', 'maxmemory', '1')
  t.match(await writer.add([[job('a'), job('b')], [job('c')]]), [{ message: /^OOM/ }, { message: /^OOM/ }])
  t.equal(await client.exists(`bull:${queue.name}:a`, `bull:${queue.name}:b`, `bull:${queue.name}:c`), 0)
  await client.config('SET', 'maxmemory', '0')
  t.same(await writer.add([[job('d'), job('e')]]), [['d', 'e']])
})

test('a server that has forgotten BullMQ\'s scripts costs no request', { skip: noOwnRedis }, async t => {
  const { client, queue, writer } = await open(t, (await ownRedis(t)).url)
  t.same(await writer.add([[job('a'), delayed('b')]]), [['a', 'b']])
  await client.call('SCRIPT', 'FLUSH')
  t.same(await writer.add([[job('c'), delayed('d')], [job('e')]]), [['c', 'd'], ['e']])
  t.same((await waiting(client, queue)).sort(), ['a', 'c', 'e'])
})

test('a server that has become a replica: ioredis is asked whether to reconnect, and the request is stored', { skip: noOwnRedis }, async t => {
  const server = await ownRedis(t)
  let asked = 0
  const { client, queue, writer } = await open(t, server.url, {
    reconnectOnError (error: Error) {
      if (!error.message.includes('READONLY')) return false
      // As the new primary would be found.
      if (asked++ === 0) client.call('REPLICAOF', 'NO', 'ONE')
      return 2
    }
  })
  await writer.add([[job('a'), job('b')]])
  await client.call('REPLICAOF', '127.0.0.1', '1')
  t.same(await writer.add([[job('c'), job('d')]]), [['c', 'd']])
  t.ok(asked > 0)
  t.same(await waiting(client, queue), ['a', 'b', 'c', 'd'])
})

test('several tasks that cannot even be sent are refused, with the reason', { skip: noRedis }, async t => {
  const { queue, writer } = await open(t, (await redis(t)).url)
  // As ioredis throws for half a gigabyte.
  queue.getBackend().addFlow = async () => { throw new RangeError('Invalid string length') }
  t.match(await writer.add([[job('a'), job('b')], [job('c')]]), [{ message: 'Invalid string length' }, ['c']])
})

test('a code that BullMQ gives instead of an id is no id', { skip: noRedis }, async t => {
  const { queue, writer } = await open(t, (await redis(t)).url)
  queue.getBackend().addFlow = async entries => entries.map(() => [null, -5])
  t.match(await writer.add([[job('a'), job('b')]]), [{ message: /code -5/ }])
})

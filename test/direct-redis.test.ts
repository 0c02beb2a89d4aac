import { randomUUID } from 'node:crypto'
import { Queue, type JobJson } from 'bullmq'
import Redis from 'ioredis'
import { test, type Test } from 'tap'
import { DirectRedisWriter } from '../lib/backends/bullmq/direct/redis'
import { PlainRedisWriter } from '../lib/backends/bullmq/redis/plain-writer'
import { noRedis, redis } from './support/services'

// Tasks that wait for nothing but a worker are stored by a script of this package. Redis must then hold the same as by BullMQ's own.

async function open (t: Test, url: string): Promise<{ queue: Queue, client: Redis }> {
  const queue = new Queue(`waiting-${randomUUID()}`, { connection: { url } })
  // It waits until BullMQ has written the options of the queue, which would else undo what a test does to them.
  await queue.getVersion()
  t.teardown(() => queue.close())
  const client = new Redis(url)
  t.teardown(() => client.disconnect())
  return { queue, client }
}

const openWriter = (queue: Queue) => DirectRedisWriter.open(queue, new PlainRedisWriter(queue))

function job (id: string, more: Partial<JobJson> = {}): JobJson {
  return { id, name: 'task', data: '{"payload":"ü"}', opts: { attempts: 1 }, timestamp: 1_234_567_890_123, ...more } as JobJson
}

/** All keys of a queue, without the times and numbers that Redis gives its events. */
async function contents (client: Redis, { name }: Queue): Promise<Record<string, unknown>> {
  const found: Record<string, unknown> = {}
  for (const key of await client.keys(`bull:${name}:*`)) {
    const read = {
      hash: async () => {
        const { opts, ...fields } = await client.hgetall(key)
        // The order of the fields in JSON is Lua's.
        return opts === undefined ? fields : { ...fields, opts: JSON.parse(opts) }
      },
      list: () => client.lrange(key, 0, -1),
      zset: () => client.zrange(key, 0, '-1', 'WITHSCORES'),
      stream: async () => (await client.xrange(key, '-', '+')).map(([, fields]) => fields),
      string: () => client.get(key)
    }[await client.type(key) as 'hash']
    found[key.replace(name, '')] = await read()
  }
  return found
}

const jobs = [
  job('a'),
  job('b', { name: 'other', data: '{}' }),
  job('c', { opts: { attempts: 3, backoff: { type: 'exponential', delay: 1_000, jitter: 0.5 } } }),
  job('d', { timestamp: 1_234_567_890_124 }),
  job('a', { data: '{"payload":"again"}' })
]

type Prepare = (queue: Queue, client: Redis) => Promise<unknown>

const states: Record<string, Prepare> = {
  'a new queue': (queue, client) => client.del(`bull:${queue.name}:meta`),
  'one that has jobs': queue => queue.add('earlier', {}, { jobId: 'earlier', timestamp: 1 }),
  'one that is paused': queue => queue.pause(),
  'one whose workers may not take more': async (queue, client) => {
    await queue.setGlobalConcurrency(1)
    await client.lpush(`bull:${queue.name}:active`, 'earlier')
  },
  'one whose workers may take more': async (queue, client) => {
    await queue.setGlobalConcurrency(2)
    await client.lpush(`bull:${queue.name}:active`, 'earlier')
  },
  'one that has the same jobs': async queue => {
    for (const added of jobs) await queue.getBackend().addJob(added, added.id)
  }
}

for (const [name, prepare] of Object.entries(states)) {
  test(`jobs stand as BullMQ puts them: ${name}`, { skip: noRedis }, async t => {
    const { url } = await redis(t)
    const [theirs, ours] = [await open(t, url), await open(t, url)]
    for (const { queue, client } of [theirs, ours]) await prepare(queue, client)
    const writer = await openWriter(ours.queue)
    for (const added of jobs) await theirs.queue.getBackend().addJob(added, added.id)
    t.same(await writer.add([jobs.slice(0, 2), jobs.slice(2)]), [['a', 'b'], ['c', 'd', 'a']])
    const found = await contents(ours.client, ours.queue)
    t.same(found, await contents(theirs.client, theirs.queue))
    t.equal(Object.keys(found).filter(key => /:[a-d]$/.test(key)).length, 4)
  })
}

test('no more events are kept than the queue is to keep', { skip: noRedis }, async t => {
  const { queue, client } = await open(t, (await redis(t)).url)
  await client.hset(`bull:${queue.name}:meta`, 'opts.maxLenEvents', 10)
  const writer = await openWriter(queue)
  const batch = Array.from({ length: 500 }, () => job(randomUUID()))
  for (const what of ['of new jobs', 'of those that are there']) {
    await writer.add([batch])
    // Redis removes them by the hundred.
    t.ok(await client.xlen(`bull:${queue.name}:events`) < 250, what)
  }
  await queue.obliterate({ force: true })
})

test('a hundred requests at once are stored, and one with very many tasks', { skip: noRedis }, async t => {
  const { queue, client } = await open(t, (await redis(t)).url)
  const writer = await openWriter(queue)
  const batches = [...Array.from({ length: 100 }, () => [job(randomUUID())]), Array.from({ length: 10_000 }, () => job(randomUUID()))]
  t.same(await writer.add(batches), batches.map(batch => batch.map(({ id }) => id)))
  t.same(await client.lrange(`bull:${queue.name}:wait`, 0, -1), batches.flat().map(({ id }) => id).reverse(), 'in their order')
  await queue.obliterate({ force: true })
})

test('what keeps them out is told to each request, and what was there until then is taken out again', { skip: noRedis }, async t => {
  const { queue, client } = await open(t, (await redis(t)).url)
  const writer = await openWriter(queue)
  // The last command of the script.
  await client.set(`bull:${queue.name}:marker`, 'something else')
  t.match(await writer.add([[job('a')], [job('b')]]), [{ message: /WRONGTYPE/ }, { message: /WRONGTYPE/ }])
  await client.del(`bull:${queue.name}:marker`)
  // It comes after what takes them out.
  t.same(await writer.add([[job('c')]]), [['c']])
  t.same(await client.lrange(`bull:${queue.name}:wait`, 0, -1), ['c'])
  t.same(await client.keys(`bull:${queue.name}:?`), [`bull:${queue.name}:c`])

  await queue.setGlobalConcurrency(1)
  await client.set(`bull:${queue.name}:active`, 'something else')
  t.match(await writer.add([[job('d')]]), [{ message: /WRONGTYPE/ }])
  t.notOk((await client.xrange(`bull:${queue.name}:events`, '-', '+')).some(([, fields]) => fields.includes('d')), 'where it can be told before, it was never there')
})

test('a command that cannot be sent is a refusal, and the next one does not have its jobs', { skip: noRedis }, async t => {
  const { queue, client } = await open(t, (await redis(t)).url)
  const real = await queue.getBackend().client
  let large = true
  const backend = {
    client: Promise.resolve({
      defineCommand: (...args: Parameters<typeof real.defineCommand>) => real.defineCommand(...args),
      runCommand (...args: Parameters<typeof real.runCommand>) {
        // As ioredis throws for half a gigabyte.
        if (large) throw new RangeError('Invalid string length')
        return real.runCommand(...args)
      }
    })
  }
  const writer = await DirectRedisWriter.open({ keys: queue.keys, remove: (id: string) => queue.remove(id), getBackend: () => backend } as unknown as Queue, new PlainRedisWriter(queue))
  t.match(await writer.add([[job('a')], [job('b'), job('c')]]), Array(2).fill({ message: 'Invalid string length' }))
  large = false
  t.same(await writer.add([[job('d')]]), [['d']])
  t.same(await client.lrange(`bull:${queue.name}:wait`, 0, -1), ['d'])
})

test('jobs with a delay or a dedupe id are left to the plain writer, with the others of their request', { skip: noRedis }, async t => {
  const { queue } = await open(t, (await redis(t)).url)
  const plain: string[][] = []
  const writer = await DirectRedisWriter.open(queue, {
    kind: 'plain',
    async add (batches) {
      plain.push(...batches.map(batch => batch.map(({ id }) => id)))
      return batches.map(() => new Error('refused'))
    }
  })
  const delayed = job('delayed', { opts: { attempts: 1, delay: 60_000 } })
  const keyed = job('keyed', { opts: { attempts: 1, deduplication: { id: 'x' } }, deduplicationId: 'x' })
  t.match(await writer.add([[job('a')], [job('b'), delayed], [job('c')], [keyed]]), [['a'], { message: 'refused' }, ['c'], { message: 'refused' }])
  t.same(plain, [['b', 'delayed'], ['keyed']])
})

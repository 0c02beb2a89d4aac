import type { Test } from 'tap'
import { until } from './until'
import { account, Faults } from './faults'

/** Worker processes and web processes that die, on a real server or file. */
export async function workerFaults (t: Test, url: string, more: { results?: string } = {}): Promise<void> {
  await t.test('kill -9 of a worker in the middle of a task: another one takes it over, and it is no attempt', async t => {
    const faults = new Faults(t, url, more)
    const web = await faults.start(false)
    const first = await faults.start({ concurrency: 5 })
    const { status, body } = await web.send('POST', '/slow/1/3000')
    t.equal(status, 202)
    await until('it has begun', () => faults.lines().length !== 0)
    await first.stop('SIGKILL')
    const second = await faults.start({ concurrency: 5 })
    await until('it has run', () => faults.ran().has(1))
    t.match(faults.lines(), [
      { what: 'began', attempt: 1, pid: first.pid },
      { what: 'began', attempt: 1, pid: second.pid },
      { what: 'ran', attempt: 1, pid: second.pid }
    ])
    await until('completed', async () => (await web.send('GET', `/tasks/${body.id}`)).body.state === 'completed')
    await faults.end()
  })

  await t.test('kill -9 of the web process right after its 202', async t => {
    const faults = new Faults(t, url, more)
    const web = await faults.start(false)
    const acknowledged = new Set<number>()
    await Promise.all(Array.from({ length: 50 }, async (_, n) => {
      const { status } = await web.send('POST', `/record/${n}`)
      if (status === 202) acknowledged.add(n)
      // Some of the others are under way then.
      if (n === 25) await web.stop('SIGKILL')
    }).map(sent => sent.catch(() => {})))
    t.ok(acknowledged.has(25))
    await faults.start({ concurrency: 5 })
    await until('all have run', () => [...acknowledged].every(n => faults.ran().has(n)))
    account(t, acknowledged, faults.ran())
    await faults.end()
  })

  await t.test('two workers on one queue share its tasks, each of which runs once', async t => {
    const faults = new Faults(t, url, more)
    const [web, one, two] = await Promise.all([faults.start(false), faults.start({ concurrency: 2 }), faults.start({ concurrency: 2 })])
    await Promise.all(Array.from({ length: 100 }, (_, n) => web.send('POST', `/slow/${n}/20`)))
    await until('all have run', () => faults.ran().size === 100)
    const ran = faults.lines().filter(({ what }) => what === 'ran')
    t.equal(ran.length, 100)
    t.same(new Set(ran.map(({ pid }) => pid)), new Set([one.pid, two.pid]))
    await faults.end()
  })

  await t.test('a task that kills its workers fails visibly, and the others go on', async t => {
    const faults = new Faults(t, url, { maxCrashes: 2, ...more })
    const web = await faults.start(false)
    const { body } = await web.send('POST', '/poison/1')
    const state = async () => (await web.send('GET', `/tasks/${body.id}`)).body
    // One may die of the task before it has said that it listens.
    const startWorker = () => faults.start({ concurrency: 1 }).catch(() => null)
    let worker = await startWorker()
    const info = await until('it has failed', async () => {
      if (!worker?.alive) worker = await startWorker()
      const info = await state()
      return info.state === 'failed' && info
    })
    t.match(info.error, /stalled more than|more than 2 workers/)
    t.equal(faults.lines().length, 3, 'the first time, and twice more')
    t.same(faults.lines().map(({ attempt }) => attempt), [1, 1, 1])
    await web.send('POST', '/record/2')
    await until('another one has run', () => faults.ran().has(2))
    await faults.end()
  })

  await t.test('tasks that run beside one that kills its workers are not failed for it: after a crash each runs alone', async t => {
    const faults = new Faults(t, url, { maxCrashes: 2, ...more })
    const web = await faults.start(false)
    const neighbours = await Promise.all([1, 2, 3, 4, 5, 6, 7, 8, 9].map(async n => (await web.send('POST', `/slow/${n}/100`)).body.id as string))
    const { body: { id: guilty } } = await web.send('POST', '/poison/10')
    const stateOf = async (id: string) => (await web.send('GET', `/tasks/${id}`)).body.state as string
    const startWorker = () => faults.start({ concurrency: 10 }).catch(() => null)
    let worker = await startWorker()
    await until('all have ended', async () => {
      if (!worker?.alive) worker = await startWorker()
      const states = await Promise.all([...neighbours, guilty].map(stateOf))
      return states.every(state => state === 'completed' || state === 'failed')
    })
    for (const id of neighbours) t.equal(await stateOf(id), 'completed')
    t.equal(await stateOf(guilty), 'failed')
    const lines = faults.lines()
    t.equal(lines.filter(({ n }) => n === 10).length, 3, 'the first time, and twice more')
    const [first] = lines
    const alone = lines.filter(({ pid, n }) => pid !== first!.pid && n !== 10)
    t.ok(alone.every(({ what, n }, index) => what !== 'began' || (alone[index + 1]?.what === 'ran' && alone[index + 1]?.n === n)), 'one after the other')
    await faults.end()
  })
}

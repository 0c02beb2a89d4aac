import { execFileSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'tap'
import { until } from '../support/until'
import { account, Faults } from '../support/faults'
import { noSqlite } from '../support/sqlite'

// Several processes on one file, and a disk that is full.

test('two web processes and two workers share a file: no request is refused, and each task runs once', { skip: noSqlite }, async t => {
  const faults = new Faults(t, `sqlite:${t.testdir({})}`)
  const webs = await Promise.all([faults.start(false), faults.start(false)])
  const workers = await Promise.all([faults.start({ concurrency: 10 }), faults.start({ concurrency: 10 })])
  const statuses = new Map<number, number>()
  const acknowledged = new Set<number>()
  let next = 0
  let slowest = 0
  const begin = performance.now()
  await Promise.all(webs.flatMap(web => Array.from({ length: 32 }, async () => {
    while (next < 4_000) {
      const n = next++
      const sent = performance.now()
      const { status } = await web.send('POST', `/record/${n}`)
      slowest = Math.max(slowest, performance.now() - sent)
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
      if (status === 202) acknowledged.add(n)
    }
  })))
  t.comment(`${acknowledged.size} acknowledged in ${Math.round(performance.now() - begin)} ms, the slowest after ${Math.round(slowest)} ms`)
  t.same([...statuses], [[202, 4_000]])
  await until('all have run', () => faults.ran().size === 4_000)
  account(t, acknowledged, faults.ran())
  t.ok([...faults.ran().values()].every(times => times === 1))
  t.same(new Set(faults.lines().map(({ pid }) => pid)), new Set(workers.map(({ pid }) => pid)), 'both have worked')
  await faults.end()
})

/** Mounts a small file system of the test's own, where that is allowed. */
function mount (folder: string): string | false {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', folder], { stdio: 'pipe' })
    return false
  } catch (error) {
    return `a small file system cannot be mounted here, which only root may: ${(error as Error).message}`
  }
}

test('a disk that is full: 503, and again 202 when it has room; what had run meanwhile is written down', { skip: noSqlite }, async t => {
  const folder = t.testdir({})
  const cannot = mount(folder)
  await t.test('on a file system of 2 MB', { skip: cannot }, async t => {
    t.teardown(() => execFileSync('umount', ['-l', folder]))
    const faults = new Faults(t, `sqlite:${folder}`)
    const web = await faults.start({ concurrency: 5 })
    const { body } = await web.send('POST', '/slow/1/4000')
    await until('it has begun', () => faults.lines().length !== 0)
    const filler = join(folder, 'filler')
    t.throws(() => writeFileSync(filler, Buffer.alloc(2 ** 22)), { code: 'ENOSPC' })
    const acknowledged = new Set<number>([1])
    const refusal = await until('a refusal', async () => {
      const n = acknowledged.size + 1
      const { status, body } = await web.send('POST', `/record/${n}`)
      if (status === 202) acknowledged.add(n)
      else return { status, body }
    })
    t.match(refusal, { status: 503, body: { code: 'FST_BGT_STORE_FAILED', message: /disk is full/ } })
    await until('the first one has ended', () => faults.ran().has(1))
    t.match((await web.send('GET', `/tasks/${body.id}`)).body, { state: 'running' }, 'which cannot be written down')
    rmSync(filler)
    t.match(await web.send('POST', '/record/1000'), { status: 202 })
    acknowledged.add(1000)
    await until('it is written down', async () => (await web.send('GET', `/tasks/${body.id}`)).body.state === 'completed')
    await until('all have run', () => [...acknowledged].every(n => faults.ran().has(n)))
    account(t, acknowledged, faults.ran())
    t.equal(faults.ran().get(1), 1)
    await faults.end()
  })
})

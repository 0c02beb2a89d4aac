import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import sharp from 'sharp'
import { test } from 'tap'
import type { build as Build } from '../../examples/thumbnails'
import type makeThumbnailHere from '../../examples/thumbnail'
import { listen } from '../support/server'
import { compile, sources } from '../support/threads'

const PICTURES = 5
const WIDTH = 600

test('thumbnails: while they are made the server answers; on the main thread it would not', async t => {
  // As it would be built: a thread can load JavaScript only.
  const folder = t.testdir({})
  compile(folder, [...sources, 'examples/thumbnails.ts', 'examples/thumbnail.ts'])
  const { build } = require(join(folder, 'examples/thumbnails.js')) as { build: typeof Build }
  const { default: handler } = require(join(folder, 'examples/thumbnail.js')) as { default: typeof makeThumbnailHere }

  const app = await build({ width: WIDTH })
  t.teardown(() => app.close())
  const { url } = await listen(app)
  const image = await sharp({ create: { width: 2_000, height: 1_500, channels: 3, background: 'teal', noise: { type: 'gaussian', mean: 128, sigma: 30 } } })
    .png().toBuffer()

  /**
   * How long what comes at any moment while something is done waits for the event loop, in ms on average. The longest wait
   * would tell of the machine: on a busy one every thread has to wait for the processor now and then.
   */
  const delayOf = async (work: () => Promise<void>) => {
    const delay = monitorEventLoopDelay({ resolution: 5 })
    const began = performance.now()
    delay.enable()
    await work()
    delay.disable()
    const sumOfSquares = delay.count * (delay.mean ** 2 + delay.stddev ** 2) / 1e12
    return sumOfSquares / 2 / (performance.now() - began)
  }

  const locations: string[] = []
  let answers = 0
  const onThreads: number[] = []
  const onMainThread: number[] = []
  const nobody = () => {}
  for (let i = 1; i <= PICTURES; i++) {
    onThreads.push(await delayOf(async () => {
      const response = await fetch(`${url}/pictures/${encodeURIComponent(`<${i}>.png`)}`, { method: 'POST', headers: { 'content-type': 'image/png' }, body: new Uint8Array(image) })
      t.equal(response.status, 202)
      locations.push(response.headers.get('location') as string)
      while ((await fetch(url + locations.at(-1))).status !== 200) {
        const response = await fetch(url)
        await response.text()
        answers++
        if (app.backgroundTasks.stats().failed !== 0) throw new Error('a thumbnail has failed')
      }
    }))
    onMainThread.push(await delayOf(async () => {
      app.backgroundTasks.add(async () => { await handler({ name: 'x', image, width: WIDTH }, { progress: nobody, log: { info: nobody } } as never) })
      await app.backgroundTasks.idle()
    }))
  }
  t.comment(`mean wait for the event loop, in ms: ${onThreads.map(Math.round)} on threads, ${onMainThread.map(Math.round)} on the main thread; ${answers} pages meanwhile`)
  t.ok(median(onMainThread) > 3 * median(onThreads), 'the loop is held up for less than a third')
  t.ok(answers >= PICTURES)

  const page = await (await fetch(url)).text()
  t.equal(page.split('<td>completed</td>').length - 1, PICTURES)
  t.match(page, '<td>&#60;1&#62;.png</td>')
  for (const location of locations) {
    t.match(page, `<img src="${location}"`)
    const thumbnail = Buffer.from(await (await fetch(url + location)).arrayBuffer())
    t.match(await sharp(thumbnail).metadata(), { format: 'jpeg', width: WIDTH, height: 450 })
  }
  t.equal((await fetch(`${url}/thumbnails/unknown`)).status, 404)
})

function median (values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] as number
}

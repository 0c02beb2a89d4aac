import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import sharp from 'sharp'
import { test } from 'tap'
import type { build as Build } from '../examples/thumbnails'
import type makeThumbnailHere from '../examples/thumbnail'
import { listen } from './support/server'
import { compile, sources } from './support/threads'

const PICTURES = 4
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

  /** The longest that the event loop was held up while something was done, in ms. */
  const delayOf = async (work: () => Promise<void>) => {
    const delay = monitorEventLoopDelay({ resolution: 5 })
    delay.enable()
    await work()
    delay.disable()
    return delay.max / 1e6
  }

  const locations: string[] = []
  let answers = 0
  const onThreads = await delayOf(async () => {
    for (let i = 1; i <= PICTURES; i++) {
      const response = await fetch(`${url}/pictures/${encodeURIComponent(`<${i}>.png`)}`, { method: 'POST', headers: { 'content-type': 'image/png' }, body: new Uint8Array(image) })
      t.equal(response.status, 202)
      locations.push(response.headers.get('location') as string)
    }
    while (app.backgroundTasks.stats().completed < PICTURES) {
      const response = await fetch(url)
      await response.text()
      answers++
      if (app.backgroundTasks.stats().failed !== 0) throw new Error('a thumbnail has failed')
    }
  })
  const onMainThread = await delayOf(async () => {
    const nobody = () => {}
    for (let i = 0; i < PICTURES; i++) {
      app.backgroundTasks.add(async () => { await handler({ name: 'x', image, width: WIDTH }, { progress: nobody, log: { info: nobody } } as never) })
    }
    await app.backgroundTasks.idle()
  })
  t.comment(`longest delay of the event loop: ${onThreads.toFixed(0)} ms on threads, ${onMainThread.toFixed(0)} ms on the main thread; ${answers} pages meanwhile`)
  t.ok(onMainThread > 3 * onThreads, 'the loop is held up for less than a third')
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

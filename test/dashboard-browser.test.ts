import type { FastifyInstance } from 'fastify'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type Test } from 'tap'
import { defineTask } from '../index'
import { dashboard, type DashboardOptions } from '../lib/dashboard'
import { browser, noBrowser, open } from './support/browser'
import { createApp, listen, signal } from './support/server'
import { StubBackend } from './support/stub-backend'
import type { BackgroundTasksOptions } from '../index'

/* The dashboard, as somebody sees it who has it open in Chromium. */

const PHONE = { viewport: { width: 360, height: 740 } }

async function serve (t: Test, options: BackgroundTasksOptions = {}, dashboardOptions: DashboardOptions = {}, routes = (_app: FastifyInstance): void => {}): Promise<{ app: FastifyInstance, url: string }> {
  const { app } = await createApp(t, options)
  await app.register(dashboard, { prefix: '/ops/tasks', ...dashboardOptions })
  routes(app)
  const { url } = await listen(app)
  return { app, url: `${url}/ops/tasks` }
}

/** Runs until it is told to go on, to end. */
function gate (): { step: () => void, next: () => Promise<void> } {
  const steps = [signal()]
  let at = 0
  return {
    step: () => {
      steps.push(signal())
      steps[steps.length - 2]!.resolve()
    },
    next: () => steps[at++]!.promise
  }
}

test('the page in a browser', { skip: noBrowser }, async t => {
  const chromium = await browser(t)

  t.test('a failing task appears without a reload, with its error and stack, and can be run again', async t => {
    const { app, url } = await serve(t)
    const { page, troubles } = await open(t, chromium, url)
    await page.getByText('Nothing runs and nothing waits.').waitFor()
    await page.getByText('Live', { exact: true }).waitFor()
    let runs = 0
    app.backgroundTasks.add({ name: '<img src=x onerror=alert(1)>' }, function explode (): void {
      if (++runs === 1) throw new Error('<b>no</b> route to host')
    })
    const entry = page.locator('#failed li')
    await entry.waitFor()
    t.match(await entry.innerText(), '<img src=x onerror=alert(1)>')
    t.match(await entry.innerText(), 'Error: <b>no</b> route to host')
    t.equal(await entry.locator('pre').isVisible(), false)
    await entry.locator('summary').click()
    t.match(await entry.locator('pre').innerText(), /explode .*dashboard-browser\.test/s)
    t.match(await page.locator('#news').textContent(), 'Failed: <img src=x onerror=alert(1)>: Error: <b>no</b>')
    await page.getByRole('button', { name: 'Run <img src=x onerror=alert(1)> again' }).click()
    await page.getByText('” runs again.').waitFor()
    await entry.waitFor({ state: 'detached' })
    t.equal(runs, 2)
    t.equal(await page.evaluate('document.activeElement.id'), 'outcome', 'the focus goes to what is said of it')
    t.equal(await page.locator('img').count(), 0)
    t.same(troubles, [])
  })

  t.test('a progress bar moves; a row is changed in its place; cancel works', async t => {
    const { step, next } = gate()
    const resize = defineTask('resize', async (_payload: undefined, ctx) => {
      for (let page = 1; page <= 4; page++) {
        ctx.progress({ page, pages: 4 })
        await Promise.race([next(), new Promise(resolve => { ctx.signal.addEventListener('abort', resolve) })])
        if (ctx.signal.aborted) return
      }
    })
    const { app, url } = await serve(t, { tasks: [resize], concurrency: 1 })
    const { page, troubles } = await open(t, chromium, url)
    app.backgroundTasks.add(resize)
    let ran = false
    app.backgroundTasks.add(function follow (): void { ran = true })
    const bar = page.getByRole('progressbar', { name: 'Progress of resize' })
    await bar.waitFor()
    t.equal(await bar.getAttribute('value'), '25')
    await page.getByRole('button', { name: 'Cancel resize' }).focus()
    step()
    await page.locator('progress[value="50"]').waitFor()
    t.equal(await page.evaluate('document.activeElement.getAttribute("aria-label")'), 'Cancel resize', 'the focus has stayed')

    const waiting = page.getByRole('row', { name: /follow/ })
    t.match(await waiting.innerText(), 'The only place is taken.')
    await waiting.getByRole('button', { name: 'Cancel follow' }).click()
    await waiting.waitFor({ state: 'detached' })
    await page.getByText('“follow” was cancelled.').waitFor()
    await page.getByRole('button', { name: 'Cancel resize' }).press('Enter')
    await page.getByText('Nothing runs and nothing waits.').waitFor()
    t.equal(ran, false)
    t.match(app.backgroundTasks.stats(), { cancelled: 2, running: 0, completed: 0 })
    t.same(troubles, [])
  })

  t.test('what is stuck stands on top, and why', async t => {
    const end = signal()
    const { app, url } = await serve(t, { concurrency: 1 }, { stuckAfter: 1_500 }, app => {
      app.post('/', async request => {
        request.backgroundTasks.add(async function hang () { await end.promise })
        request.backgroundTasks.add(function behind () {})
        return 'x'
      })
    })
    t.teardown(() => end.resolve())
    await fetch(new URL('/', url), { method: 'POST' })
    app.backgroundTasks.add(function other () {})
    const { page } = await open(t, chromium, url)
    await page.locator('#summary[data-mood=bad]').waitFor()
    t.match(await page.locator('#headline').innerText(), /^1 task is stuck: “hang” has been running for \d+ s\.$/)
    t.equal(await page.locator('#reason').innerText(), 'It has no timeout: nothing ends it but itself. 1 task of request req-1 waits for it. The only place of this process is taken, so 2 tasks wait.')
    t.match(await page.getByRole('row', { name: /behind/ }).innerText(), "It waits for 'hang', of the same request.")
    t.equal(await page.locator('tr[data-stuck] th b').innerText(), 'hang')
    end.resolve()
    await page.locator('#summary[data-mood=calm]').waitFor()
    t.match(await page.locator('#headline').innerText(), 'Nothing is stuck')
  })

  t.test('what waits too long, what is tried again and a backend that is away stand on top too', async t => {
    const end = signal()
    const backend = new StubBackend()
    let away = false
    backend.list = async () => {
      if (away) throw new Error('connect ECONNREFUSED 10.0.0.7:6379')
      return { counts: { running: 0, waiting: 0, delayed: 0, failed: 0 }, tasks: [] }
    }
    const { app, url } = await serve(t, { backend }, { stuckAfter: 1_500 }, app => {
      app.get('/hang', async request => {
        request.backgroundTasks.add(function afterwards () {})
        await end.promise
        return 'x'
      })
    })
    t.teardown(() => end.resolve())
    const { page, troubles } = await open(t, chromium, url)
    const headline = page.locator('#headline')
    const reason = page.locator('#reason')
    const send = app.backgroundTasks.add({ name: 'send', attempts: 2, backoff: 600_000 }, () => { throw new Error('no such host') })
    await page.locator('#summary[data-mood=warn]').waitFor()
    t.equal(await headline.innerText(), 'Nothing is stuck: 0 tasks run, 0 wait, 1 is to be tried again or delayed.')
    t.equal(await reason.innerText(), '1 task has failed and is to be tried again, the next one “send”: Error: no such host.')
    await send.cancel()
    const held = fetch(new URL('/hang', url))
    await headline.getByText(/^1 task waits too long: “afterwards” has been waiting for \d+ s\.$/).waitFor()
    t.equal(await reason.innerText(), 'Its request has not been answered yet.')
    t.equal(await page.locator('tr[data-late] th b').innerText(), 'afterwards')
    away = true
    await headline.getByText('stub does not answer: which tasks it has cannot be seen.').waitFor()
    t.match(await reason.innerText(), /^It says: connect ECONNREFUSED 10\.0\.0\.7:6379\. 1 task waits too long: /)
    end.resolve()
    await held
    t.same(troubles, [])
  })

  t.test('far down the page, what is done there is told there', async t => {
    const { app, url } = await serve(t)
    for (let i = 0; i < 60; i++) app.backgroundTasks.add({ name: `task ${i}`, delay: 600_000 }, () => {})
    const { page } = await open(t, chromium, url)
    const row = page.getByRole('row', { name: /task 59/ })
    await row.getByRole('button').click()
    const before = await page.evaluate('scrollY') as number
    await row.waitFor({ state: 'detached' })
    const outcome = page.getByText('“task 59” was cancelled.')
    await outcome.waitFor()
    const after = await page.evaluate('scrollY') as number
    t.ok(before > 1_000 && before - after < 200, `from ${before} to ${after}`)
    const { y } = (await outcome.boundingBox())!
    t.ok(y >= 0 && y < 720, `${y}`)
    await outcome.waitFor({ state: 'detached' })
  })

  t.test('a server that is silent is not called live', async t => {
    const { app, url } = await serve(t)
    const sockets: Socket[] = []
    app.server.on('connection', socket => { sockets.push(socket) })
    const { page } = await open(t, chromium, url)
    const connection = page.locator('#connection')
    await connection.getByText('Live', { exact: true }).waitFor()
    // As if it had no time to write.
    for (const socket of sockets) socket.cork()
    await connection.getByText(/^The server is silent, or too busy to speak\. What is shown is from /).waitFor()
    for (const socket of sockets) socket.uncork()
    await connection.getByText('Live', { exact: true }).waitFor()
    for (const socket of sockets) socket.destroy()
    await connection.getByText(/^The connection is lost; trying again … What is shown is from /).waitFor()
    await connection.getByText('Live', { exact: true }).waitFor()
  })

  t.test('the plots draw what happened, also before the page was opened', async t => {
    const { app, url } = await serve(t)
    for (let i = 0; i < 30; i++) app.backgroundTasks.add(() => {})
    // Seconds that are over are drawn.
    await sleep(1_100)
    const { page, troubles } = await open(t, chromium, url)
    const rate = page.getByRole('img', { name: /^Tasks per second, in per second: completed at most 30/ })
    await rate.waitFor()
    const line = await rate.locator('path.completed').getAttribute('d') as string
    const heights = [...line.matchAll(/[ML][\d.]+ ([\d.]+)/g)].map(([, y]) => Number(y))
    t.equal(heights.length, 300)
    t.equal(Math.max(...heights), 118, 'nothing')
    t.ok(Math.min(...heights) < 60, 'thirty')
    await page.getByRole('img', { name: /^Time in the queue, in ms: mean at most \d+/ }).waitFor()
    t.same(troubles, [])
  })

  t.test('on a phone nothing is wider than the screen; dark where that is asked for', async t => {
    const { url } = await scene(t)
    const { page } = await open(t, chromium, url, { ...PHONE, colorScheme: 'dark' })
    await page.locator('#failed li').first().waitFor()
    t.equal(await page.evaluate('document.documentElement.scrollWidth'), 360)
    const colour = 'getComputedStyle(document.body).backgroundColor'
    t.equal(await page.evaluate(colour), 'rgb(20, 24, 29)')
    if (process.env.SCREENSHOTS !== undefined) await page.screenshot({ path: join(process.env.SCREENSHOTS, 'phone.png'), fullPage: true })
    await page.emulateMedia({ colorScheme: 'light' })
    t.equal(await page.evaluate(colour), 'rgb(246, 247, 249)')
  })

  t.test('the whole of it', async t => {
    const { url } = await scene(t)
    const { page, troubles } = await open(t, chromium, url, { viewport: { width: 1_160, height: 900 } })
    await page.locator('#failed li').first().waitFor()
    for (const group of ['Running', 'To be tried again, or delayed', 'Waiting']) {
      t.ok(await page.getByRole('table', { name: group }).getByRole('row').count() >= 2, group)
    }
    t.equal(await page.getByRole('table', { name: 'Running' }).getByRole('columnheader').count(), 6)
    t.equal(await page.getByRole('row').getByText('4242').count(), 0, 'nothing of a payload')
    if (process.env.SCREENSHOTS !== undefined) {
      await page.waitForTimeout(Number(process.env.SCREENSHOTS_AFTER ?? 3_000))
      await page.screenshot({ path: join(process.env.SCREENSHOTS, 'dashboard.png'), fullPage: true })
    }
    t.same(troubles, [])
  })
})

/** An application with something of everything. */
async function scene (t: Test): Promise<{ app: FastifyInstance, url: string }> {
  const held = signal()
  const resize = defineTask('resize-video', async ({ done }: { done: number }, ctx) => {
    ctx.progress(done)
    await held.promise
  }, { timeout: 600_000 })
  const receipt = defineTask('send-receipt', async (_order: { number: number }) => {
    throw new Error('connect ECONNREFUSED 10.0.0.7:25')
  }, { attempts: 5, backoff: { type: 'exponential', delay: 20_000 } })
  const index = defineTask('update-index', async (_payload: undefined) => {
    throw new Error('the index is read-only', { cause: new Error('disk quota exceeded') })
  })
  const { app, url } = await serve(t, { tasks: [resize, receipt, index], concurrency: 3 }, {}, app => {
    app.post('/upload', async request => {
      request.backgroundTasks.add(resize, { done: 62 })
      request.backgroundTasks.add(async function purgeCache () {})
      return 'x'
    })
    app.post('/order', async request => {
      request.backgroundTasks.add(receipt, { number: 4242 })
      request.backgroundTasks.add({ delay: 3_600_000, name: 'ask-for-a-review' }, () => {})
      request.backgroundTasks.add(index)
      return 'x'
    })
    app.post('/sync', async request => {
      request.backgroundTasks.add(async function syncContacts () { await held.promise })
      return 'x'
    })
  })
  t.teardown(() => held.resolve())
  const post = async (path: string) => { await fetch(new URL(path, url), { method: 'POST' }) }
  await post('/order')
  while (app.backgroundTasks.stats().failed === 0) await sleep(10)
  await post('/sync')
  // Others come and go, for the plots to have something to draw.
  const work = setInterval(() => {
    for (let i = 0; i < 20 + 15 * Math.sin(Date.now() / 4_000); i++) app.backgroundTasks.add(() => sleep(2 + 3 * Math.random()))
  }, 100)
  t.teardown(() => clearInterval(work))
  await sleep(Number(process.env.SCREENSHOTS_BEFORE ?? 0))
  clearInterval(work)
  await post('/upload')
  await post('/upload')
  await post('/upload')
  return { app, url }
}

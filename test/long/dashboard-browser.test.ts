import type { FastifyInstance } from 'fastify'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { test, type Test } from 'tap'
import { defineTask } from '../../index'
import { dashboard, type DashboardOptions } from '../../lib/dashboard'
import type { ListName } from '../../lib/dashboard/protocol'
import { browser, noBrowser, open } from '../support/browser'
import { listPage } from '../support/dashboard'
import { createApp, listen, signal } from '../support/server'
import { StubBackend } from '../support/stub-backend'
import type { BackgroundTasksOptions } from '../../index'
import { until } from '../support/until'

/* The dashboard, as somebody sees it who has it open in Chromium. */

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
    await page.getByText('Nothing is stuck: 0 tasks run, 0 wait.').waitFor()
    await page.getByText('Live', { exact: true }).waitFor()
    let runs = 0
    app.backgroundTasks.add({ name: '<img src=x onerror=alert(1)>' }, function explode (): void {
      if (++runs === 1) throw new Error('<b>no</b> route to host')
    })
    const entry = page.locator('#failures li')
    await entry.waitFor()
    t.match(await entry.innerText(), '<img src=x onerror=alert(1)>')
    t.match(await entry.innerText(), 'Error: <b>no</b> route to host')
    t.match(await page.locator('#news').textContent(), 'Failed: <img src=x onerror=alert(1)>: Error: <b>no</b>')
    await entry.getByRole('link').click()
    await page.locator('#list .rows .name').click()
    await page.locator('#errors pre').getByText(/explode .*dashboard-browser\.test/s).waitFor()
    t.notMatch(await page.locator('#errors pre').innerText(), /lib.run.call/, 'frames of the plugin are folded')
    await page.getByRole('button', { name: /^Show \d+ frames of the plugin and of Node$/ }).click()
    t.match(await page.locator('#errors pre').innerText(), /lib.run.call/)
    await page.getByRole('button', { name: 'Run <img src=x onerror=alert(1)> again' }).click()
    await page.getByText('” runs again.').waitFor()
    await page.locator('.state').getByText('Completed').waitFor()
    await page.getByRole('link', { name: 'Background tasks' }).click()
    await page.locator('#failures').getByText('None.').waitFor()
    t.equal(runs, 2)
    t.equal(await page.locator('img').count(), 0)
    t.same(troubles, [])
  })

  t.test('schedules: rule, due times, and a run now', async t => {
    const end = signal()
    const report = defineTask('report', async () => { await end.promise })
    const { app, url } = await serve(t, {
      tasks: [report],
      closeTimeout: 100,
      schedules: {
        hourly: { task: report, every: 3_600_000 },
        nightly: { task: report, cron: '0 3 * * *', timezone: 'Europe/Berlin' }
      }
    })
    t.teardown(() => end.resolve())
    const { page, troubles } = await open(t, chromium, url)
    await page.getByRole('link', { name: '2 schedules' }).click()
    const rows = page.locator('#schedules li')
    await rows.first().waitFor()
    t.match(await rows.allInnerTexts(), [/^hourly\s*every hour, task report\s+in .*\s+has not been due\s+Run now$/, /^nightly\s*0 3 \* \* \* in Europe\/Berlin, task report\s+in .*\s+has not been due\s+Run now$/])
    const tab = page.getByRole('navigation').getByRole('link', { name: 'Schedules 2' })
    t.equal(await tab.getAttribute('aria-current'), 'page')
    await page.getByRole('button', { name: 'Run hourly now' }).click()
    await page.getByText('“hourly” runs now.').waitFor()
    await until('the run', () => app.backgroundTasks.stats().running === 1)
    await page.getByRole('button', { name: 'Run hourly now' }).click()
    await page.getByText('“hourly” was not run: its last run has not settled').waitFor()
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
    await page.locator('#tile-running').click()
    const cancel = page.getByRole('button', { name: 'Cancel resize' })
    const focused = (label: string) => until(`the focus on ${label}`, async () => await page.evaluate('document.activeElement.textContent') === label)
    await cancel.focus()
    step()
    await page.locator('#list progress[value="50"]').waitFor()
    t.equal(await page.evaluate('document.activeElement.getAttribute("aria-label")'), 'Cancel resize', 'the focus has stayed')

    await page.getByRole('link', { name: /^Waiting/ }).click()
    const waiting = page.getByRole('listitem').filter({ hasText: 'follow' })
    t.match(await waiting.innerText(), 'The only place is taken.')
    await waiting.getByRole('button', { name: 'Cancel follow' }).press('Enter')
    await focused('Yes, cancel')
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    await focused('Cancel')
    await page.keyboard.press('Enter')
    await focused('Yes, cancel')
    await page.keyboard.press('Enter')
    await page.getByText('“follow” was cancelled.').waitFor()
    await waiting.getByText('It is not in this list any more.').waitFor()
    await page.getByRole('button', { name: 'Show the list as it is now' }).click()
    await page.getByText('Nothing waits.').waitFor()
    await page.getByRole('link', { name: /^Running/ }).click()
    await page.getByRole('link', { name: 'resize' }).click()
    await page.locator('.state').getByText('Running').waitFor()
    t.equal(await page.locator('.wide-progress pre').innerText(), '{\n  "page": 2,\n  "pages": 4\n}')
    await page.getByRole('button', { name: 'Cancel resize' }).click()
    await page.getByRole('button', { name: 'Yes, cancel' }).click()
    await page.locator('.state').getByText('Cancelled').waitFor()
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
    t.equal(await page.locator('#reason').innerText(), 'It has no timeout, and cannot be cancelled: it ends by itself, or with the process. 1 task of request req-1 waits for it. The only place of this process is taken, and 2 tasks wait. A task is called stuck after 1 s without progress.')
    t.equal(await page.locator('#longest li[data-stuck=true] .name').innerText(), 'hang')
    await page.getByRole('link', { name: 'Open the task' }).click()
    await page.locator('.state').getByText('Stuck').waitFor()
    await page.getByText('It has no timeout, and cannot be cancelled: it ends by itself, or with the process. 1 task of its request waits for it.').waitFor()
    await page.getByRole('link', { name: 'What waits of the same request' }).click()
    t.match(await page.getByRole('listitem').filter({ hasText: 'behind' }).innerText(), "It waits for 'hang', of the same request.")
    await page.getByRole('link', { name: 'Overview' }).click()
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
      return { counts: { running: 0, waiting: 0, delayed: 0, failed: 0, completed: 0 }, tasks: [] }
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
    t.match(await reason.innerText(), /^1 task has failed and is to be tried again, the next one “send” in \d+ min \d+ s: Error: no such host\.$/)
    await send.cancel()
    const held = fetch(new URL('/hang', url))
    await headline.getByText(/^1 task waits too long: “afterwards” has been waiting for \d+ s\.$/).waitFor()
    t.equal(await reason.innerText(), 'Its request has not been answered yet.')
    away = true
    await headline.getByText('stub does not answer: which tasks it has cannot be seen.').waitFor()
    t.match(await reason.innerText(), /^It says: connect ECONNREFUSED 10\.0\.0\.7:6379\. 1 task waits too long: /)
    end.resolve()
    await held
    t.same(troubles, [])
  })

  t.test('with any number of tasks the first screen is as long; lists are paged, searched and sorted, and stand still', async t => {
    const { app, url } = await serve(t)
    for (let i = 0; i < 1_234; i++) app.backgroundTasks.add({ name: `task ${i}`, delay: 600_000 }, () => {})
    for (let i = 0; i < 150; i++) app.backgroundTasks.add({ name: 'fails' }, () => { throw new Error(`number ${i}`) })
    await until('the failures', () => app.backgroundTasks.stats().failed === 150)
    const { page, troubles } = await open(t, chromium, url, { viewport: { width: 1_280, height: 800 } })
    const group = page.locator('#failures li')
    await group.waitFor()
    t.equal(await group.locator('.tally').innerText(), '150')
    t.equal(await page.locator('#tile-failed .value').innerText(), '150')
    t.equal(await page.locator('#tile-later .value').innerText(), '1,234')
    t.ok(await page.evaluate('document.documentElement.scrollHeight') as number < 1_000)
    const { y, height } = (await group.boundingBox())!
    t.ok(y + height < 800, 'failures are on the first screen')

    await page.locator('#tile-later').click()
    const rows = page.locator('.rows > li')
    await rows.first().waitFor()
    t.equal(await rows.count(), 50)
    t.match(await page.locator('.pages').innerText(), '1–50 of 1,234')
    await page.getByRole('link', { name: 'Next →' }).click()
    await page.getByText('51–100 of 1,234').waitFor()
    await rows.getByText('task 50', { exact: true }).waitFor()
    await page.getByRole('link', { name: '← Previous' }).click()
    await rows.getByText('task 49', { exact: true }).waitFor()
    await page.getByLabel('Order').selectOption('newest')
    await rows.getByText('task 1233', { exact: true }).waitFor()
    await page.getByRole('searchbox').fill('task 77')
    await rows.getByText('task 777', { exact: true }).waitFor()
    t.equal(await rows.count(), 11)
    t.match(page.url(), /#\/later\?search=task\+77&order=newest$/, 'it has an address')

    app.backgroundTasks.add({ name: 'task 77 new', delay: 600_000 }, () => {})
    await page.getByText('1 new task', { exact: true }).waitFor()
    t.equal(await rows.count(), 11, 'what is new announces itself')
    await page.getByRole('button', { name: 'Show the list as it is now' }).click()
    await rows.getByText('task 77 new').waitFor()

    await page.goto(`${url}/#/failed`)
    await page.getByText('Of this process, the last 100 failed tasks are kept, and of 50 others the number.').waitFor()
    t.equal(await rows.first().locator('.error').innerText(), 'Error: number 149', 'the newest stands on top')
    await page.locator('.sort select').selectOption('oldest')
    await rows.getByText('Error: number 50', { exact: true }).waitFor()
    t.match(page.url(), /#\/failed\?order=oldest$/)
    await page.getByRole('link', { name: 'Overview' }).click()
    await page.getByRole('button', { name: 'Run 100 again: fails' }).click()
    await page.getByText('Run 100 tasks again? Of the other 50 only the number is kept.').waitFor()
    await page.getByRole('button', { name: 'Yes, run' }).click()
    await page.getByText('“fails”: 100 tasks run again.').waitFor()
    await page.getByRole('button', { name: 'Dismiss fails' }).click()
    await page.getByRole('button', { name: 'Yes, remove' }).click()
    await page.getByText('“fails”: 150 tasks were dismissed.').waitFor()
    await page.locator('#failures').getByText('None.').waitFor()
    t.same(troubles, [])
  })

  t.test('the first screen is as long with hundreds of waiting and failed tasks as with a few, on a desk and on a phone', async t => {
    const names = Array.from({ length: 12 }, (_, index) => `kind ${index + 10}`)
    async function crowd (waiting: number, failed: number): Promise<string> {
      const end = signal()
      const { app, url } = await serve(t, { concurrency: 1 }, { failures: 1_000 })
      t.teardown(() => end.resolve())
      for (let i = 0; i < failed; i++) app.backgroundTasks.add({ name: 'fails' }, () => { throw new Error(`no route to 10.0.0.${i}`) })
      await until('the failures', () => app.backgroundTasks.stats().failed === failed)
      app.backgroundTasks.add(async function hang () { await end.promise })
      for (let i = 0; i < waiting; i++) app.backgroundTasks.add({ name: names[i % names.length] as string }, () => {})
      return url
    }
    const few = await crowd(12, 2)
    const many = await crowd(504, 150)
    for (const [width, height] of [[1_280, 800], [390, 844]] as const) {
      const lengths: number[] = []
      for (const [url, waiting, failed] of [[few, '12', '2'], [many, '504', '150']] as const) {
        const { page, troubles } = await open(t, chromium, url, { viewport: { width, height } })
        await page.locator('#failures .tally').getByText(failed, { exact: true }).waitFor()
        await page.locator('#names').getByText('and 4 more names').waitFor()
        t.equal(await page.locator('#tile-waiting .value').innerText(), waiting)
        const tops = await Promise.all(['#summary', '#tile-running', '#plot-rate', '#failures', '#longest'].map(async part => (await page.locator(part).boundingBox())!.y))
        t.same(tops, [...tops].sort((a, b) => a - b), 'the sentence, the tiles, the plots, the failures, what runs')
        t.ok(tops.at(width === 390 ? 2 : 3)! < height, 'on the screen without scrolling')
        lengths.push(await page.evaluate('document.documentElement.scrollHeight') as number)
        t.same(troubles, [])
        if (url === many) {
          await page.getByRole('link', { name: 'kind 13', exact: true }).click()
          await page.locator('.rows').getByText('kind 13').first().waitFor()
          t.equal(await page.locator('.rows > li').count(), 42, 'the link of a name leads to its tasks')
          t.match(page.url(), /#\/waiting\?search=%22kind\+13%22$/)
        }
        await page.context().close()
      }
      // A longer figure may break a line.
      t.ok(Math.abs(lengths[0]! - lengths[1]!) < 50, `${width} wide: ${lengths.join(' and ')}`)
    }
  })

  t.test('with the keyboard alone: from the first screen to a failed task that runs again', async t => {
    const { app, url } = await serve(t)
    let runs = 0
    app.backgroundTasks.add(function fails () { if (++runs === 1) throw new Error('once') })
    const { page, troubles } = await open(t, chromium, url)
    await page.locator('#failures li').waitFor()
    /** Moves the focus on until it is there, and presses Enter. */
    async function enter (what: string, isThere: string): Promise<void> {
      for (let i = 0; i < 40; i++) {
        await page.keyboard.press('Tab')
        const visible = await page.evaluate('document.activeElement.matches(":focus-visible") && getComputedStyle(document.activeElement).outlineStyle !== "none"')
        t.ok(visible, 'the focus can be seen')
        if (await page.evaluate(`(element => ${isThere})(document.activeElement)`) === true) return page.keyboard.press('Enter')
      }
      t.fail(`no way to ${what}`)
    }
    await enter('the tile', "element.id === 'tile-failed'")
    await page.locator('#list .rows .name').waitFor()
    await enter('the task', "element.matches('#list .rows .name')")
    await page.locator('#errors').waitFor()
    t.match(await page.title(), /^Task [\da-f-]{36} – Background tasks$/)
    await enter('the button', "element.getAttribute('aria-label') === 'Run fails again'")
    await page.locator('.state').getByText('Completed').waitFor()
    t.equal(runs, 2)
    t.same(troubles, [])
  })

  t.test('a process is paused and resumed', async t => {
    const backend = new StubBackend()
    let resumes = 0
    const resumable = Object.assign(backend, { resume: async () => { resumes++ } })
    const { url } = await serve(t, { backend: resumable })
    const { page, troubles } = await open(t, chromium, url)
    await page.getByRole('button', { name: 'Pause this process' }).click()
    await page.getByRole('button', { name: 'Yes, pause' }).click()
    await page.locator('#reason').getByText('This process is paused: it takes no tasks of stub.').waitFor()
    t.equal(backend.pauses, 1)
    await page.getByRole('button', { name: 'Resume this process' }).click()
    await page.locator('#worker').getByText('This process takes tasks of stub.').waitFor()
    t.equal(resumes, 1)
    t.same(troubles, [])
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
    const rate = page.getByRole('img', { name: /^Tasks per second, in per second: .*completed at most 30/ })
    await rate.waitFor()
    // The canvas has been drawn on, and redraws in other colours.
    const drawn = (plot: string) => `(() => {
      const canvas = document.querySelector('${plot} canvas')
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
      const colours = new Set()
      for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) colours.add(data.slice(i, i + 3).join())
      return [...colours]
    })()`
    t.ok((await page.evaluate(drawn('#plot-rate')) as string[]).includes('37,99,168'), 'completed')
    t.ok((await page.evaluate(drawn('#plot-queue')) as string[]).includes('37,99,168'), 'the mean of a single second')
    await page.emulateMedia({ colorScheme: 'dark' })
    await until('the other colours', async () => (await page.evaluate(drawn('#plot-rate')) as string[]).includes('125,180,240'))
    await page.getByRole('img', { name: /^Time in the queue, in ms: .*mean of those begun at most \d+/ }).waitFor()
    await page.locator('#plot-rate .u-over').hover()
    await page.locator('#plot-rate .legend').getByText(/at \d/).waitFor()
    // Chromium's advice for a page that reads its canvas, which only this test does.
    t.same(troubles.filter(text => !text.includes('willReadFrequently')), [])
  })

  t.test('nothing is wider than the screen, on each page, in both schemes', async t => {
    const { app, url } = await scene(t)
    const idOf = async (list: ListName) => (await listPage(url, list, { order: 'oldest' })).tasks[0]!.id
    const addresses = ['#/', ...['running', 'waiting', 'later', 'failed', 'completed'].map(list => `#/${list}`), `#/task/${await idOf('running')}`, `#/task/${await idOf('failed')}`, '#/task/unknown', '#/schedules']
    for (const [width, height] of [[1_280, 800], [390, 844], [320, 600]] as const) {
      for (const colorScheme of ['light', 'dark'] as const) {
        const { page, troubles } = await open(t, chromium, url, { viewport: { width, height }, colorScheme })
        for (const address of addresses) {
          await page.goto(`${url}/${address}`)
          await page.locator('main section h2').first().waitFor()
          t.equal(await page.evaluate('document.documentElement.scrollWidth'), width, `${address} ${width}`)
        }
        t.equal(await page.evaluate('getComputedStyle(document.body).backgroundColor'), colorScheme === 'dark' ? 'rgb(20, 24, 29)' : 'rgb(246, 247, 249)')
        t.equal(await page.getByText('4242').count(), 0, 'nothing of a payload')
        t.same(troubles, [])
        await page.context().close()
      }
    }
    t.ok(app.backgroundTasks.stats().running > 0)
  })

  if (process.env.SCREENSHOTS !== undefined) {
    t.test('the screenshot of the documentation', async t => {
      const { url } = await scene(t)
      const { page } = await open(t, chromium, url, { viewport: { width: 1_280, height: 800 } })
      await page.waitForTimeout(Number(process.env.SCREENSHOTS_AFTER ?? 35_000))
      await page.screenshot({ path: join(process.env.SCREENSHOTS as string, 'dashboard.png') })
      t.pass('taken')
    })
  }
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
  await until('a failure', () => app.backgroundTasks.stats().failed !== 0)
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

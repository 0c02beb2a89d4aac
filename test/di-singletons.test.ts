import { asClass, createContainer, Lifetime } from 'awilix'
import { once } from 'node:events'
import { test } from 'tap'
import type { BackgroundTasks } from '../index'
import { lateAddWarning } from '../lib/observe/report'
import { createDiApp } from './support/awilix'
import { listen, settled } from './support/server'
import { noStrictContainer } from './support/versions'

class Mailer {
  readonly #tasks: BackgroundTasks

  constructor ({ backgroundTasks }: { backgroundTasks: BackgroundTasks }) {
    this.#tasks = backgroundTasks
  }

  send (text: string, sent: string[]) {
    this.#tasks.add(function sendMail () { sent.push(text) })
  }
}

test('a strict container refuses a singleton that depends on the collector of a request', { skip: noStrictContainer }, async t => {
  const { app, container, log } = await createDiApp(t, {}, { container: createContainer({ strict: true }) })
  container.register('mailer', asClass(Mailer, { lifetime: Lifetime.SINGLETON }))
  app.get('/', async request => request.diScope.resolve<Mailer>('mailer'))
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 500)
  t.match(log.find(line => line.level === 50)!.err!.message, /'backgroundTasks'/)
})

test('a container that is not strict lets it keep the first request\'s: its late adds warn once, with the cure', async t => {
  const { app, container } = await createDiApp(t)
  lateAddWarning.emitted = false
  container.register('mailer', asClass(Mailer, { lifetime: Lifetime.SINGLETON }))
  const sent: string[] = []
  app.get<{ Params: { text: string } }>('/:text', async request => {
    request.diScope.resolve<Mailer>('mailer').send(request.params.text, sent)
    return 'x'
  })
  const warnings: Array<Error & { code: string }> = []
  const onWarning = (warning: Error) => { warnings.push(warning as typeof warnings[number]) }
  process.on('warning', onWarning)
  t.teardown(() => process.off('warning', onWarning))
  const { url } = await listen(app)
  await fetch(`${url}/a`)
  await settled(app, { completed: 1 })
  t.same(warnings, [])
  for (const [index, text] of ['b', 'c'].entries()) {
    await fetch(`${url}/${text}`)
    await settled(app, { completed: index + 2 })
  }
  t.same(sent, ['a', 'b', 'c'], 'they run all the same')
  t.same(warnings.map(warning => warning.code), ['FST_BGT_LATE_ADD'])
  t.match(warnings[0]!.message, "'sendMail'")
  t.match(warnings[0]!.message, 'a singleton')
  t.match(warnings[0]!.message, "set the option 'asyncContext: true'")
})

test('a service that reads the cradle late, long after its request, is detected as well', async t => {
  const { app, container } = await createDiApp(t)
  lateAddWarning.emitted = false
  class LazyMailer {
    readonly #cradle: { backgroundTasks: BackgroundTasks }

    constructor (cradle: { backgroundTasks: BackgroundTasks }) {
      this.#cradle = cradle
    }

    send () {
      this.#cradle.backgroundTasks.add(function sendMail () {})
    }
  }
  container.register('mailer', asClass(LazyMailer, { lifetime: Lifetime.SINGLETON }))
  app.get('/resolve', async request => { request.diScope.resolve('mailer') })
  app.get('/use', async request => { request.diScope.resolve<LazyMailer>('mailer').send() })
  const { url } = await listen(app)
  await fetch(`${url}/resolve`)
  const warned = once(process, 'warning')
  for (let completed = 1; completed <= 3; completed++) {
    await fetch(`${url}/use`)
    await settled(app, { completed })
  }
  t.equal((await warned)[0].code, 'FST_BGT_LATE_ADD')
})

test('and `asyncContext: true` cures it, strict or not', async t => {
  for (const strict of [false, true]) {
    const { app, container } = await createDiApp(t, { asyncContext: true }, { container: createContainer({ strict }) })
    lateAddWarning.emitted = false
    container.register('mailer', asClass(Mailer, { lifetime: Lifetime.SINGLETON }))
    const sent: string[] = []
    app.get<{ Params: { text: string } }>('/:text', async request => {
      request.diScope.resolve<Mailer>('mailer').send(request.params.text, sent)
      return sent.includes(request.params.text)
    })
    const { url } = await listen(app)
    for (const text of ['a', 'b', 'c']) {
      t.equal(await (await fetch(`${url}/${text}`)).json(), false, 'not before the response')
      await app.backgroundTasks.idle()
    }
    t.same(sent, ['a', 'b', 'c'])
    t.equal(lateAddWarning.emitted, false)
  }
})

import type { FastifyInstance, FastifyReply, FastifyRequest, onRequestHookHandler, preHandlerAsyncHookHandler, preHandlerHookHandler } from 'fastify'
import type { IncomingMessage } from 'node:http'
import fp from 'fastify-plugin'
import { AppTasks } from '../app-tasks'
import { checkOptions, count, flag, milliseconds, type Checks } from '../check-options'
import { FST_BGT_DASHBOARD_REGISTERED, FST_BGT_NOT_REGISTERED } from '../errors'
import '../../types/fastify'
import { Actions } from './actions'
import { Monitor } from './monitor'
import { assertOwnPage } from './own-page'
import { ICON, PAGE } from './page'
import { SCRIPT } from './script'
import { Source } from './source'
import { STYLE } from './style'
import { Viewers } from './viewers'

/** The options of the dashboard. */
export interface DashboardOptions {
  /**
   * Decides who may see the page, before each of its routes: the page, its parts, its stream and its actions. It has none
   * of its own.
   */
  preHandler?: preHandlerHookHandler | preHandlerAsyncHookHandler | ReadonlyArray<preHandlerHookHandler | preHandlerAsyncHookHandler>
  /**
   * Whether the page shows what tasks were given: payloads and arguments.
   * @default false
   */
  payload?: boolean
  /**
   * Milliseconds after which the page calls a task stuck that still runs, and says of one that waits that it waits too long.
   * @default 30_000
   */
  stuckAfter?: number
  /**
   * How many failed tasks of this process are kept, each with what it needs to be run again: its function and its
   * arguments, or its payload.
   * @default 100
   */
  failures?: number
}

type ResolvedDashboardOptions = Required<DashboardOptions>

const DEFAULTS: ResolvedDashboardOptions = { preHandler: [], payload: false, stuckAfter: 30_000, failures: 100 }

const isFunction = (value: unknown) => typeof value === 'function'

const CHECKS: Checks<DashboardOptions> = {
  preHandler: ['a function or an array of functions', value => isFunction(value) || (Array.isArray(value) && value.every(isFunction))],
  payload: flag,
  stuckAfter: milliseconds,
  failures: count
}

/** What Fastify itself reads from the options of `register`. */
const FASTIFY_OPTIONS = ['prefix', 'logLevel', 'logSerializers']

/** Nothing but what the page's own routes give out, and nothing that could show it in a frame of another page. */
const HEADERS = {
  'content-security-policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-cache'
}

/**
 * A page that shows what runs, waits, is tried again and has failed, live. Register it after the plugin itself, under a
 * prefix.
 */
export const dashboard = fp(backgroundTasksDashboard, { fastify: '5.x', name: 'fastify-background-tasks-dashboard', encapsulate: true })

async function backgroundTasksDashboard (fastify: FastifyInstance, opts: DashboardOptions): Promise<void> {
  const own = Object.fromEntries(Object.entries(opts).filter(([name]) => !FASTIFY_OPTIONS.includes(name)))
  const options = checkOptions(own, DEFAULTS, CHECKS) as ResolvedDashboardOptions
  const runtime = fastify.hasDecorator('backgroundTasks') ? AppTasks.runtimeOf(fastify.backgroundTasks) : null
  if (runtime === null) throw new FST_BGT_NOT_REGISTERED()
  if (runtime.ledger.observer !== null) throw new FST_BGT_DASHBOARD_REGISTERED()
  const monitor = new Monitor(runtime, options.failures)
  const source = new Source(runtime, monitor, options)
  const viewers = new Viewers(source)
  const actions = new Actions(runtime, monitor, source)
  runtime.ledger.observer = monitor

  fastify.addHook('onRequest', dashboardOnRequest)
  for (const hook of [options.preHandler].flat()) fastify.addHook('preHandler', hook as preHandlerHookHandler)
  fastify.addHook('preClose', dashboardPreClose)

  // An action has no body. One that comes with it must not be answered before the preHandler is.
  fastify.removeAllContentTypeParsers()
  fastify.addContentTypeParser('*', ignoreBody)

  asset('/page.css', 'text/css; charset=utf-8', STYLE)
  asset('/page.js', 'text/javascript; charset=utf-8', SCRIPT)
  asset('/icon.svg', 'image/svg+xml', ICON)
  fastify.get('/', { prefixTrailingSlash: 'both' }, showPage)
  // A HEAD request would wait for the end of a stream that has none.
  fastify.get('/events', { exposeHeadRoute: false, preHandler: async () => viewers.admit() }, showEvents)
  fastify.post<Named>('/tasks/:id/cancel', { preHandler: checkPage }, async request => actions.cancel(request.params.id))
  fastify.post<Named>('/tasks/:id/run-again', { preHandler: checkPage }, async request => actions.runAgain(request.params.id))

  function asset (path: string, type: string, text: string): void {
    fastify.get(path, (_request, reply) => reply.type(type).send(text))
  }

  function showEvents (_request: FastifyRequest, reply: FastifyReply): void {
    reply.hijack()
    viewers.add(reply.raw)
  }

  function dashboardPreClose (done: () => void): void {
    viewers.close()
    done()
  }
}

interface Named {
  Params: { id: string }
}

const dashboardOnRequest: onRequestHookHandler = (_request, reply, done) => {
  reply.headers(HEADERS)
  done()
}

function ignoreBody (_request: FastifyRequest, body: IncomingMessage, done: (error: Error | null) => void): void {
  body.resume()
  done(null)
}

async function checkPage (request: FastifyRequest): Promise<void> {
  assertOwnPage(request)
}

/** The page's parts are named relative to it, so that it works behind any prefix: its own address must end in a slash. */
function showPage (request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const [path, query] = request.url.split('?', 2) as [string, string?]
  const last = path.slice(path.lastIndexOf('/') + 1)
  if (last !== '') return reply.redirect(`./${last}/${query === undefined ? '' : `?${query}`}`)
  return reply.type('text/html; charset=utf-8').send(PAGE)
}

import type { FastifyInstance, FastifyReply, FastifyRequest, onRequestHookHandler, preHandlerAsyncHookHandler, preHandlerHookHandler } from 'fastify'
import type { IncomingMessage } from 'node:http'
import fp from 'fastify-plugin'
import '../../types/fastify'
import { AppTasks } from '../collect/app-tasks'
import { checkOptions, type Checks, count, flag, milliseconds } from '../shared/check-options'
import { FST_BGT_DASHBOARD_REGISTERED, FST_BGT_NOT_REGISTERED } from '../shared/errors'
import { Actions } from './actions'
import { SCRIPT, STYLE } from './assets'
import { ICON, DOCUMENT } from './document'
import { Listing } from './listing'
import { Lists, type Query } from './lists'
import { Monitor } from './monitor'
import { OverviewSource } from './overview'
import { assertOwnPage } from './own-page'
import { partsFrom } from './parts'
import { scheduleViews } from './schedules'
import { assertThisMachine } from './this-machine'
import type { GroupCursor, ListName } from './protocol'
import { Viewers } from './viewers'

/** The options of the dashboard. */
export interface DashboardOptions {
  /**
   * Decides who may see the page, before each of its routes: the page, its parts, its stream and its actions.
   * @default none: the page answers only this machine, by its own names (`FST_BGT_LOCAL_ONLY`)
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

/** Options of `register` that Fastify itself reads. */
const FASTIFY_OPTIONS = ['prefix', 'logLevel', 'logSerializers']

/** Headers that allow the page its own routes alone, and no other page to show it in a frame. */
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
  const options = checkOptions(opts, DEFAULTS, CHECKS, { ignored: FASTIFY_OPTIONS }) as ResolvedDashboardOptions
  const collectorParts = fastify.hasDecorator('backgroundTasks') ? AppTasks.partsOf(fastify.backgroundTasks) : null
  if (collectorParts === null) throw new FST_BGT_NOT_REGISTERED()
  const parts = partsFrom(collectorParts)
  if (parts.ledger.observer !== null) throw new FST_BGT_DASHBOARD_REGISTERED()
  const monitor = new Monitor(parts, options.failures)
  const listing = parts.store === null ? null : new Listing(parts.store)
  const lists = new Lists(parts, monitor, listing, options.payload)
  const actions = new Actions(parts, monitor, listing, lists)
  const viewers = new Viewers(new OverviewSource(parts, monitor, listing, lists, options.stuckAfter, () => actions.isPaused))
  parts.ledger.observer = monitor

  fastify.addHook('onRequest', dashboardOnRequest)
  const preHandlers = [options.preHandler].flat()
  for (const hook of preHandlers) fastify.addHook('preHandler', hook as preHandlerHookHandler)
  if (preHandlers.length === 0) {
    fastify.addHook('onRequest', dashboardOnRequestLocal)
    fastify.log.info('the dashboard of background tasks answers only this machine, since it has no preHandler: give it one that decides who may see it, to open it to others')
  }
  fastify.addHook('preClose', dashboardPreClose)

  // An action has no body. Fastify would read one, and answer a bad one, before the preHandler decides.
  fastify.removeAllContentTypeParsers()
  fastify.addContentTypeParser('*', ignoreBody)

  asset('/page.css', 'text/css; charset=utf-8', STYLE)
  asset('/page.js', 'text/javascript; charset=utf-8', SCRIPT)
  asset('/icon.svg', 'image/svg+xml', ICON)
  fastify.get('/', { prefixTrailingSlash: 'both' }, showPage)
  // A HEAD request would wait for the end of a stream that has none.
  const guarded = { exposeHeadRoute: false, preHandler: checkPage }
  fastify.get('/events', guarded, showEvents)
  fastify.get<{ Params: { list: string }, Querystring: QueryParameters }>('/lists/:list', guarded, async (request, reply) => {
    const query = queryOf(request.params.list, request.query)
    return query === null ? reply.callNotFound() : lists.page(query)
  })
  fastify.get<Named>('/tasks/:id', guarded, async request => ({ task: await lists.details(request.params.id) }))
  fastify.post<Named>('/tasks/:id/cancel', guarded, async request => actions.cancel(request.params.id))
  fastify.post<Named>('/tasks/:id/run-again', guarded, async request => actions.runAgain(request.params.id))
  fastify.post<Named>('/tasks/:id/dismiss', guarded, async request => actions.dismiss(request.params.id))
  fastify.post<NamedGroup>('/groups/:id/run-again', guarded, async request => actions.runGroupAgain(request.params.id, cursorOf(request.query)))
  fastify.post<NamedGroup>('/groups/:id/dismiss', guarded, async request => actions.dismissGroup(request.params.id, cursorOf(request.query)))
  fastify.get('/schedules', guarded, async () => ({ schedules: await scheduleViews(parts.app) }))
  fastify.post<Named>('/schedules/:id/run', guarded, async request => actions.runSchedule(request.params.id))
  fastify.post('/worker/pause', guarded, async () => actions.pause())
  fastify.post('/worker/resume', guarded, async () => actions.resume())

  function asset (path: string, type: string, text: string): void {
    fastify.get(path, (_request, reply) => reply.type(type).send(text))
  }

  function showEvents (request: FastifyRequest, reply: FastifyReply): void {
    viewers.add(request, reply)
  }

  function dashboardPreClose (done: () => void): void {
    viewers.close()
    actions.close()
    done()
  }
}

interface Named {
  Params: { id: string }
}

interface NamedGroup extends Named {
  Querystring: Partial<Record<keyof GroupCursor, string | string[]>>
}

/** Where an action on a group goes on; `null` for its first call. */
function cursorOf (query: NamedGroup['Querystring']): GroupCursor | null {
  const cursor = { before: Number(query.before), left: Number(query.left), offset: Number(query.offset), acted: Number(query.acted) }
  return Object.values(cursor).every(value => Number.isSafeInteger(value) && value >= 0) ? cursor : null
}

type QueryParameters = Partial<Record<'offset' | 'order' | 'search' | 'group', string | string[]>>

const LISTS: readonly string[] = ['running', 'waiting', 'later', 'failed', 'completed'] satisfies ListName[]
/** The longest text that is searched for; the rest is cut off. */
const MAX_SEARCH_CHARS = 200

/** The query of a list's address; `null` if there is no such list. A parameter without sense counts as missing. */
function queryOf (list: string, { offset, order, search, group }: QueryParameters): Query | null {
  if (!LISTS.includes(list)) return null
  const number = Number(offset ?? 0)
  return {
    list: list as ListName,
    offset: Number.isSafeInteger(number) && number > 0 ? number : 0,
    newestFirst: order === 'newest',
    search: typeof search === 'string' ? search.trim().slice(0, MAX_SEARCH_CHARS) : '',
    group: typeof group === 'string' ? group.slice(0, MAX_SEARCH_CHARS) : ''
  }
}

const dashboardOnRequest: onRequestHookHandler = (_request, reply, done) => {
  reply.headers(HEADERS)
  done()
}

const dashboardOnRequestLocal: onRequestHookHandler = (request, _reply, done) => {
  assertThisMachine(request)
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
  return reply.type('text/html; charset=utf-8').send(DOCUMENT)
}

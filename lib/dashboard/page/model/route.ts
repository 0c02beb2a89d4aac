import type { ListName } from '../../protocol'

/* The addresses of the page's parts. They stand behind the `#`, so that the page works behind any prefix. */

export interface ListRoute {
  page: 'list'
  list: ListName
  search: string
  group: string
  offset: number
  newestFirst: boolean
}

export type Route = { page: 'overview' } | { page: 'schedules' } | { page: 'task', id: string } | ListRoute

export const TITLES: Record<ListName, string> = {
  running: 'Running',
  waiting: 'Waiting',
  later: 'Later: tried again or delayed',
  failed: 'Failed',
  completed: 'Completed'
}

export const LISTS = Object.keys(TITLES) as ListName[]

/** Lists of ended tasks begin with the newest. */
function isNewestFirst (list: ListName): boolean {
  return list === 'failed' || list === 'completed'
}

export function listRoute (list: ListName, more: Partial<ListRoute> = {}): ListRoute {
  return { page: 'list', list, search: '', group: '', offset: 0, newestFirst: isNewestFirst(list), ...more }
}

/** An address that makes no sense is that of the first screen. */
export function routeOf (hash: string): Route {
  const [path = '', query = ''] = hash.replace(/^#?\/?/, '').split('?', 2)
  const [first = '', second = ''] = path.split('/')
  if (first === 'task' && second !== '') return { page: 'task', id: decoded(second) }
  if (first === 'schedules') return { page: 'schedules' }
  if (!LISTS.includes(first as ListName)) return { page: 'overview' }
  const parameters = new URLSearchParams(query)
  const offset = Number(parameters.get('offset') ?? 0)
  const order = parameters.get('order')
  return listRoute(first as ListName, {
    search: parameters.get('search') ?? '',
    group: parameters.get('group') ?? '',
    offset: Number.isSafeInteger(offset) && offset > 0 ? offset : 0,
    ...(order !== null && { newestFirst: order === 'newest' })
  })
}

function decoded (text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

export function addressOf (route: Route): string {
  if (route.page === 'overview') return '#/'
  if (route.page === 'schedules') return '#/schedules'
  if (route.page === 'task') return `#/task/${encodeURIComponent(route.id)}`
  const query = queryOf(route)
  return `#/${route.list}${query === '' ? '' : `?${query}`}`
}

/** The query for the server and the address: only values that differ from the defaults. */
export function queryOf ({ list, search, group, offset, newestFirst }: ListRoute): string {
  const parameters = new URLSearchParams()
  if (search !== '') parameters.set('search', search)
  if (group !== '') parameters.set('group', group)
  if (offset !== 0) parameters.set('offset', String(offset))
  if (newestFirst !== isNewestFirst(list)) parameters.set('order', newestFirst ? 'newest' : 'oldest')
  return parameters.toString()
}

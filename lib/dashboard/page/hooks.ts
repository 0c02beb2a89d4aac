import { useEffect, useReducer, useState } from 'preact/hooks'
import { addressOf, type Route, routeOf } from './model/route'
import { server } from './server'

/** Milliseconds between two questions for the list or the task that is shown. */
const POLL_MS = 2_000

/** Shows a component anew with each message of the server. */
export function useServer (): typeof server {
  const [, update] = useReducer<number, void>(count => count + 1, 0)
  useEffect(() => server.subscribe(() => update()), [])
  return server
}

export function useRoute (): Route {
  const [route, setRoute] = useState(() => routeOf(location.hash))
  useEffect(() => {
    const change = () => setRoute(routeOf(location.hash))
    addEventListener('hashchange', change)
    return () => removeEventListener('hashchange', change)
  }, [])
  return route
}

/** Goes to another address, without a step of its own in the history if it only says more of the same. */
export function go (route: Route, replace = false): void {
  const address = addressOf(route)
  if (!replace) location.hash = address
  else {
    history.replaceState(null, '', address)
    dispatchEvent(new HashChangeEvent('hashchange'))
  }
}

export interface Polled<Answer> {
  /** `undefined` before the first answer. */
  answer: Answer | undefined
  /** The error of the last question; empty after an answer. */
  trouble: string
  /** Asks at once. */
  ask: () => void
}

/** Asks the server again and again, while the page can be seen. With another key it begins anew. */
export function usePolled<Answer> (key: string, question: () => Promise<Answer>): Polled<Answer> {
  const [state, setState] = useState<{ key: string, answer?: Answer, trouble: string }>({ key, trouble: '' })
  const [asked, askAgain] = useReducer<number, void>(count => count + 1, 0)
  useEffect(() => {
    let over = false
    let timer: ReturnType<typeof setTimeout>
    async function poll (): Promise<void> {
      if (!document.hidden) {
        try {
          const answer = await question()
          if (!over) setState({ key, answer, trouble: '' })
        } catch (error) {
          if (!over) setState(last => ({ ...(last.key === key ? last : { key }), trouble: (error as Error).message }))
        }
      }
      if (!over) timer = setTimeout(poll, POLL_MS)
    }
    poll()
    return () => {
      over = true
      clearTimeout(timer)
    }
  }, [key, asked])
  return state.key === key ? { answer: state.answer, trouble: state.trouble, ask: () => askAgain() } : { answer: undefined, trouble: '', ask: () => askAgain() }
}

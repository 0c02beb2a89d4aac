/**
 * Calls back when so many ms have passed, and not before what came until then has been taken: where the event loop has been held,
 * by a synchronous function for instance, Node runs the timers that are due before it looks for events.
 * @param keepsProcess whether the process stays alive for it
 * @returns what calls it off, up to the last moment
 */
export function setDeadline (ms: number, missed: () => void, keepsProcess = true): () => void {
  let immediate: NodeJS.Immediate | undefined
  const timer = setTimeout(() => { immediate = setImmediate(missed) }, ms)
  if (!keepsProcess) timer.unref()
  return () => {
    clearTimeout(timer)
    clearImmediate(immediate)
  }
}

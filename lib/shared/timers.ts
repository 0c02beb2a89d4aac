/*
 * The plugin's own timers and clock, read when it is loaded: fake timers that a test installs later must not stop the plugin. A task's
 * own times (delay, backoff, timeout) use the global timers instead, so that a test can drive them.
 */

export const { clearImmediate, clearInterval, clearTimeout, setImmediate, setInterval, setTimeout } = globalThis

const { nodeTiming } = performance

/** Milliseconds of a clock that never goes back. */
export const now = performance.now.bind(performance)

/**
 * The number of events that the event loop has handled: of sockets, files and threads, not of timers and immediates. Needs Node 22.8
 * (https://nodejs.org/api/perf_hooks.html#performancenodetiminguvmetricsinfo).
 */
export function eventsTaken (): number {
  return nodeTiming.uvMetricsInfo.events
}

export function sleep (ms: number): Promise<void> {
  return new Promise(resolve => { setTimeout(resolve, ms) })
}

export function nextTurn (): Promise<void> {
  return new Promise(resolve => { setImmediate(resolve) })
}

import fc from 'fast-check'

/*
 * Random programs for the property test: what several requests, the application and their clients do.
 */

export interface Program {
  onFailure: 'continue' | 'stop'
  concurrency: number
  maxPending: number
  requests: RequestProgram[]
  /** Steps of the application itself, beside the requests. */
  app: Step[]
  /** Closed when so many tasks have been accepted, at the latest when everything else is done. */
  close: { afterTasks: number, timeout: number } | null
}

export interface RequestProgram {
  afterTurns: number
  /** Over a socket; the client may leave so many turns after the handler has begun. */
  transport: 'inject' | 'socket' | { leavesAfterTurns: number }
  handler: Step[]
  end: 'return' | 'return 404' | 'throw' | 'send error'
  /** Steps of the error handler. */
  error: Step[]
  /** Steps some turns after the handler's end. */
  late: { afterTurns: number, steps: Step[] }
}

export type Step =
  | { do: 'add', task: TaskProgram, door: 'request' | 'app' }
  /** A task that has been accepted, counted from the last one back. */
  | { do: 'cancel', back: number }
  | { do: 'release' }
  | { do: 'turns', count: number }
  | { do: 'wait', ms: number }

export interface TaskProgram {
  kind: 'sync' | 'async' | 'thenable' | 'defined'
  /** `slow`: takes longer than a timer; `hang`: ends when the program is over; `listen`: when its signal aborts, or then. */
  way: 'short' | 'slow' | 'hang' | 'listen'
  turns: number
  /** So many attempts fail before one succeeds. */
  failures: number
  unrecoverable: boolean
  runOn: 'success' | 'failure' | 'always' | 'predicate: true' | 'predicate: false' | 'predicate: throws'
  timeout: number
  attempts: number
  backoff: number
  exponential: boolean
  delay: number
  key: string | null
  signal: boolean
  /** Done at the start of its first attempt; `turns` and `wait` mean nothing here. */
  nested: Step[]
}

const none: fc.Arbitrary<Step[]> = fc.constant([])

/** Mostly the first value, now and then another one. */
function mostly<T> (usual: T, ...others: T[]): fc.Arbitrary<T> {
  return fc.oneof({ arbitrary: fc.constant(usual), weight: 3 * others.length }, ...others.map(value => fc.constant(value)))
}

function task (nested: fc.Arbitrary<Step[]>): fc.Arbitrary<TaskProgram> {
  return fc.record({
    kind: fc.constantFrom('sync', 'async', 'async', 'thenable', 'defined'),
    way: fc.constantFrom('short', 'short', 'short', 'short', 'short', 'slow', 'slow', 'hang', 'listen'),
    turns: fc.integer({ min: 0, max: 4 }),
    failures: fc.constantFrom(0, 0, 0, 1, 1, 2, 9),
    unrecoverable: mostly(false, true),
    runOn: mostly('success', 'failure', 'always', 'predicate: true', 'predicate: false', 'predicate: throws'),
    timeout: mostly(0, 1, 4),
    attempts: fc.constantFrom(1, 1, 2, 3),
    backoff: fc.integer({ min: 0, max: 3 }),
    exponential: fc.boolean(),
    delay: mostly(0, 1, 4),
    key: fc.constantFrom(null, null, 'a', 'a', 'b'),
    signal: mostly(false, true),
    nested
  })
}

function add (nested: fc.Arbitrary<Step[]>): fc.Arbitrary<Step> {
  return fc.record({ do: fc.constant('add' as const), task: task(nested), door: mostly<'request' | 'app'>('request', 'app') })
}

const cancel: fc.Arbitrary<Step> = fc.record({ do: fc.constant('cancel' as const), back: fc.integer({ min: 0, max: 5 }) })
const release: fc.Arbitrary<Step> = fc.constant({ do: 'release' })
const pause: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant('turns' as const), count: fc.integer({ min: 1, max: 4 }) }),
  fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: 4 }) })
)

function steps (depth: number, maxLength: number, minLength = 0): fc.Arbitrary<Step[]> {
  const nested = depth === 0 ? none : fc.oneof({ arbitrary: none, weight: 2 }, steps(depth - 1, 2))
  return fc.array(fc.oneof(
    { arbitrary: add(nested), weight: 6 },
    { arbitrary: cancel, weight: 2 },
    { arbitrary: pause, weight: 2 },
    { arbitrary: release, weight: 1 }
  ), { minLength, maxLength })
}

const request: fc.Arbitrary<RequestProgram> = fc.record({
  afterTurns: fc.integer({ min: 0, max: 10 }),
  transport: fc.oneof(
    { arbitrary: fc.constant('inject' as const), weight: 2 },
    fc.constant('socket' as const),
    fc.record({ leavesAfterTurns: fc.integer({ min: 0, max: 6 }) })
  ),
  handler: steps(2, 6, 2),
  end: mostly('return', 'return 404', 'throw', 'send error'),
  error: steps(0, 2),
  late: fc.record({ afterTurns: fc.integer({ min: 0, max: 20 }), steps: fc.oneof({ arbitrary: none, weight: 2 }, steps(1, 2)) })
})

export const programs: fc.Arbitrary<Program> = fc.record({
  onFailure: fc.constantFrom('continue', 'stop'),
  concurrency: fc.constantFrom(Infinity, 1, 2, 3),
  maxPending: mostly(Infinity, 1, 4),
  requests: fc.array(request, { minLength: 1, maxLength: 4 }),
  app: steps(1, 4),
  close: fc.oneof(
    { arbitrary: fc.constant(null), weight: 2 },
    fc.record({ afterTasks: fc.integer({ min: 0, max: 8 }), timeout: fc.constantFrom(0, 5, 20) })
  )
})

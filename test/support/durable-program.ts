import fc from 'fast-check'

/*
 * Random programs for the property test of backends: processes that share a store, what their requests and clients do, and which calls of
 * the store go wrong. All times are in ms of virtual time.
 */

export interface DurableProgram {
  /** `writes` of the stub; SQLite has its own. */
  writes: number
  processes: ProcessProgram[]
  /** Of all processes. The stub has no schedules. */
  schedule: ScheduleProgram | null
  events: Event[]
  /** Of the first calls of `store`, in the order in which the processes make them. */
  storeFaults: StoreFault[]
  /** Of the first calls of `cancel`. */
  cancelFaults: CancelFault[]
  /** Of the first deliveries. The stub alone has them. */
  deliveryFaults: DeliveryFault[]
}

export interface ScheduleProgram {
  every: number
  overlap: boolean
}

export interface ProcessProgram {
  /** 0: the process runs no tasks of the store. */
  concurrency: number
  closeTimeout: number
}

/** A `process` is counted among those that are open. */
export type Event =
  | { do: 'request', process: number, request: RequestProgram }
  | { do: 'add', process: number, task: TaskProgram }
  | { do: 'cancel', back: number }
  | { do: 'wait', ms: number }
  | { do: 'close', process: number }
  | { do: 'kill', process: number }
  | { do: 'start', program: ProcessProgram }

export interface RequestProgram {
  steps: Step[]
  end: 'return' | 'return 404' | 'throw'
  /** Steps of the error handler. */
  error: Step[]
  /** The client leaves after so many ms. */
  leaves: number | null
}

export type Step =
  | { do: 'add', task: TaskProgram }
  /** A task counted from the last one back. */
  | { do: 'cancel', back: number }
  | { do: 'flush', catches: boolean }
  | { do: 'release' }
  | { do: 'wait', ms: number }

export interface TaskProgram {
  /** A function of this process; else a defined task, which goes to the store. */
  plain: boolean
  runOn: 'success' | 'failure' | 'always' | 'predicate: true' | 'predicate: false'
  /** How long an attempt takes. */
  ms: number
  /** Whether it goes on when its signal aborts. */
  deaf: boolean
  /** So many attempts fail before one succeeds. */
  failures: number
  unrecoverable: boolean
  /** So many executions end with the death of their process. */
  kills: number
  attempts: number
  backoff: number
  exponential: boolean
  delay: number
  timeout: number
  dedupe: string | null
  key: string | null
  /** Whether its handle is asked for the end of the task. */
  watched: boolean
  /** What each attempt of a defined task adds at its begin, by `ctx.add`. `runOn` and `key` mean nothing there. */
  next: TaskProgram[]
}

/**
 * - `refused`: nothing is stored; `one refused`: nothing of the first batch;
 * - `question lost`, `answer lost`: no answer ever comes, and the second has stored;
 * - `question late`, `answer late`: they come when the plugin no longer waits;
 * - `slow`: it still waits; `broken`: stored, but the answer is an error; `twice`: the driver asks again, as after a lost connection.
 */
export type StoreFault = 'none' | 'refused' | 'one refused' | 'question lost' | 'answer lost' | 'question late' | 'answer late' | 'slow' | 'broken' | 'twice'
export type CancelFault = 'none' | 'refused' | 'lost' | 'slow'
/** `repeated`: given to a worker once more, and the first one is told; `repeated silently`: it is not. */
export type DeliveryFault = 'none' | 'repeated' | 'repeated silently'

/** The options of the plugin and the store in these programs. */
export const STORE_TIMEOUT = 1_000
export const LOCK_DURATION = 1_500

/** Mostly the first value, now and then another one. */
function mostly<T> (usual: T, ...others: T[]): fc.Arbitrary<T> {
  return fc.oneof({ arbitrary: fc.constant(usual), weight: 3 * others.length }, ...others.map(value => fc.constant(value)))
}

const withoutNext = {
  plain: mostly(false, true),
  runOn: mostly<TaskProgram['runOn']>('success', 'failure', 'always', 'predicate: true', 'predicate: false'),
  ms: fc.constantFrom(0, 0, 20, 20, 450, 4_000),
  deaf: mostly(false, true),
  failures: fc.constantFrom(0, 0, 0, 1, 2, 9),
  unrecoverable: mostly(false, false, true),
  kills: mostly(0, 0, 0, 1),
  attempts: fc.constantFrom(1, 2, 3),
  backoff: fc.constantFrom(0, 70, 700),
  exponential: fc.boolean(),
  delay: mostly(0, 90, 2_100),
  timeout: mostly(0, 230),
  dedupe: fc.constantFrom(null, null, null, 'a', 'b'),
  key: fc.constantFrom(null, null, null, 'k'),
  watched: mostly(false, true)
}
/** Never the death of the process: what has added it would add it again, and so on. */
const last: fc.Arbitrary<TaskProgram> = fc.record({ ...withoutNext, kills: fc.constant(0), next: fc.constant<TaskProgram[]>([]) })
const task: fc.Arbitrary<TaskProgram> = fc.record({
  ...withoutNext,
  next: fc.oneof({ arbitrary: fc.constant<TaskProgram[]>([]), weight: 4 }, fc.array(last, { minLength: 1, maxLength: 2 }))
})

const process: fc.Arbitrary<ProcessProgram> = fc.record({ concurrency: fc.constantFrom(1, 1, 2, 5, 0), closeTimeout: fc.constantFrom(40, 1_900) })
const which = fc.nat({ max: 2 })
const ms = fc.constantFrom(0, 10, 110, 900, 3_000)
const cancel = fc.record({ do: fc.constant('cancel' as const), back: fc.nat({ max: 4 }) })
const pause = fc.record({ do: fc.constant('wait' as const), ms })

function steps (maxLength: number): fc.Arbitrary<Step[]> {
  return fc.array(fc.oneof(
    { arbitrary: fc.record({ do: fc.constant('add' as const), task }), weight: 7 },
    { arbitrary: cancel, weight: 1 },
    { arbitrary: fc.record({ do: fc.constant('flush' as const), catches: fc.boolean() }), weight: 1 },
    { arbitrary: fc.constant({ do: 'release' } as const), weight: 1 },
    { arbitrary: pause, weight: 1 }
  ), { maxLength })
}

const request: fc.Arbitrary<RequestProgram> = fc.record({
  steps: steps(5),
  end: mostly('return', 'return 404', 'throw'),
  error: fc.oneof({ arbitrary: fc.constant<Step[]>([]), weight: 2 }, steps(2)),
  leaves: mostly(null, 0, 5, 120)
})

const event: fc.Arbitrary<Event> = fc.oneof(
  { arbitrary: fc.record({ do: fc.constant('request' as const), process: which, request }), weight: 8 },
  { arbitrary: fc.record({ do: fc.constant('add' as const), process: which, task }), weight: 2 },
  { arbitrary: cancel, weight: 1 },
  { arbitrary: pause, weight: 4 },
  { arbitrary: fc.record({ do: fc.constant('close' as const), process: which }), weight: 1 },
  { arbitrary: fc.record({ do: fc.constant('kill' as const), process: which }), weight: 1 },
  { arbitrary: fc.record({ do: fc.constant('start' as const), program: process }), weight: 1 }
)

const storeFault = mostly<StoreFault>('none', 'refused', 'one refused', 'question lost', 'answer lost', 'question late', 'answer late', 'slow', 'broken', 'twice')

/** Half of the programs have a store without faults: what a fault excuses is wrong there. */
function faults<T> (fault: fc.Arbitrary<T>, maxLength: number): fc.Arbitrary<T[]> {
  return fc.oneof(fc.constant<T[]>([]), fc.array(fault, { maxLength }))
}

export const durablePrograms: fc.Arbitrary<DurableProgram> = fc.record({
  writes: fc.constantFrom(1, 2, Infinity),
  processes: fc.array(process, { minLength: 1, maxLength: 2 }),
  schedule: fc.option(fc.record({ every: fc.constantFrom(1_000, 3_000), overlap: fc.boolean() })),
  events: fc.array(event, { minLength: 1, maxLength: 8 }),
  storeFaults: faults(storeFault, 8),
  cancelFaults: faults(mostly<CancelFault>('none', 'refused', 'lost', 'slow'), 4),
  deliveryFaults: faults(mostly<DeliveryFault>('none', 'repeated', 'repeated silently'), 8)
})

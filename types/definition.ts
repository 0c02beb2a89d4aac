import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { ContextTaskOptions, TaskHandle, TaskOptions, TransactionTaskOptions } from './task'
import type { TransactionClient } from './transaction'

/** Marks a definition; only `defineTask` makes one. */
declare const kDefined: unique symbol

/** A value that moves to a thread instead of being copied. */
export type Transferable = ArrayBufferLike | ArrayBufferView

/** The function of a defined task. */
export type TaskHandler<Payload, Result> = (payload: Payload, ctx: TaskContext) => Result

/** The options of a definition: defaults for each `add`. No `signal`: the context always has one. */
export interface DefinitionOptions extends Omit<TaskOptions, 'name' | 'signal' | 'dedupe'> {
  /**
   * Runs the task in the process that adds it, instead of storing it in the backend.
   * @default false
   */
  local?: boolean
  /**
   * For the Celery backend: `true` sends the payload as the only positional argument. With `false`, an object becomes the keyword
   * arguments, an array the positional arguments, and any other value the only positional argument.
   * @default false
   */
  singleArgument?: boolean
}

/** The options of a definition that runs on a thread. */
export interface ThreadDefinitionOptions<Payload> extends DefinitionOptions {
  /**
   * With `local: true`: returns the parts of the payload that move to the thread instead of being copied. Parts are ArrayBuffers, and
   * typed arrays and Buffers that fill their ArrayBuffer. `add` empties them. With several attempts, each but the last gets a copy.
   */
  transfer?: (payload: Payload) => readonly Transferable[]
}

/**
 * A named task, to be passed to `add` with its payload. Called as a function, it calls the handler directly: for unit tests, and for code
 * that needs the result now.
 */
export interface TaskDefinition<Payload = any, Result = unknown> {
  (payload: Payload, ctx?: Partial<TaskContext>): Result
  /** The name given to `defineTask`. */
  readonly name: string
  /** @internal */
  readonly [kDefined]: true
}

/** The request's DI scope as `@fastify/awilix` types it; `undefined` if its types are not loaded. */
export type DiScope = FastifyRequest extends { diScope: infer Scope } ? Scope : undefined

/** The second argument of a defined task's handler. */
export interface TaskContext {
  /** A UUID, the same on every attempt: usable as an idempotency key. */
  readonly id: string
  /** The name of the definition, or the option `name` of the `add`. */
  readonly name: string
  /** 1 on the first attempt. */
  readonly attempt: number
  /** Aborts at the timeout, at `cancel()` and when the application's close runs out of time. */
  readonly signal: AbortSignal
  /** A child of the request's logger, or of the application's, with the field `task`. Made when first read. */
  readonly log: FastifyBaseLogger
  /** The id of the request that added the task; `null` if the application added it. */
  readonly requestId: string | null
  /**
   * A DI scope for this attempt alone, made when first read and disposed when the handler has ended. Its `backgroundTasks` is the
   * collector that the task was added to. `undefined` without `@fastify/awilix`.
   * @throws FST_BGT_NO_DI_SCOPE on a worker thread
   */
  readonly diScope: DiScope
  /**
   * Reports the task's progress: any JSON value, of at most 16,777,216 characters of JSON with a backend. `find` shows the last one. May be
   * called often: a backend gets one write at a time, with the last value, and the last of all before the task's end.
   */
  progress (value: unknown): void
  /**
   * Adds a further task, as `app.backgroundTasks.add` does: the task starts at once, and keeps the id and the logger of this task's request. With a
   * backend a defined task is stored at once, and the attempt completes only when the backend has it; else it fails, and so is tried
   * again. May be taken out of the context: `const { add } = ctx`.
   * @throws as `add` of a request, and FST_BGT_NO_ATTEMPT after the end of the attempt; FST_BGT_NOT_ON_THREAD for a function on a worker
   * thread, and from all members of a thread's handle but `id` and `name`: see {@link ThreadTaskContext}
   */
  readonly add: Add<ContextTaskOptions>['add']
}

/** The second argument of a handler that runs on a worker thread. */
export interface ThreadTaskContext extends Omit<TaskContext, 'add' | 'diScope'> {
  /** Adds a defined task, which the main thread accepts before the attempt completes; if it refuses, the attempt fails with its error. */
  readonly add: AddOnThread
}

/** The function of a defined task, as the module of a worker thread exports it. */
export type ThreadTaskHandler<Payload, Result> = (payload: Payload, ctx: ThreadTaskContext) => Result

/** `ctx.add` on a worker thread. Only the task's name, its options and its payload go to the main thread. */
export interface AddOnThread {
  <Payload> (task: TaskDefinition<Payload, unknown>, ...payload: PayloadArguments<Payload>): Pick<TaskHandle, 'id' | 'name'>
  <Payload> (options: ContextTaskOptions & { signal?: never }, task: TaskDefinition<Payload, unknown>, ...payload: PayloadArguments<Payload>): Pick<TaskHandle, 'id' | 'name'>
}

/** The payload as an argument, which is optional if the payload may be `undefined`. */
type PayloadArguments<Payload> = undefined extends Payload ? [payload?: Payload] : [payload: Payload]

/**
 * Refuses arguments for a function without parameters. Needed since TypeScript matches overloads by assignability, and a function
 * without parameters is assignable to one with parameters.
 */
type RefuseSurplus<Fn, Args> = Fn extends () => unknown ? Args extends [] ? unknown : never : unknown

/**
 * The method `add`, of requests and of the application. Called without its object, as after `const { add } = tasks`, it throws FST_BGT_UNBOUND.
 * @typeParam Options the options of a task
 */
export interface Add<Options extends TaskOptions = TaskOptions> {
  /**
   * Adds a defined task with its payload, which is copied at once.
   * @throws FST_BGT_UNKNOWN_TASK, FST_BGT_INVALID_PAYLOAD, FST_BGT_PAYLOAD_TOO_LARGE, FST_BGT_UNCLONABLE, FST_BGT_UNSUPPORTED,
   * FST_BGT_OVERLOADED, FST_BGT_CLOSED
   */
  add<Payload> (task: TaskDefinition<Payload, unknown>, ...payload: PayloadArguments<Payload>): TaskHandle
  /**
   * Adds a function, sync or async, with exactly the arguments given.
   * @throws FST_BGT_INVALID_TASK, FST_BGT_OVERLOADED, FST_BGT_CLOSED
   */
  add<Args extends unknown[]> (fn: (...args: Args) => unknown, ...args: Args): TaskHandle
  /**
   * Adds an overloaded function: the arguments select the overload.
   * @throws FST_BGT_INVALID_TASK, FST_BGT_OVERLOADED, FST_BGT_CLOSED
   */
  add<const Args extends unknown[], Fn extends (...args: NoInfer<Args>) => unknown> (fn: Fn & RefuseSurplus<Fn, Args>, ...args: Args): TaskHandle
  /**
   * Adds a defined task with options, which override those of its definition.
   * @throws as without options, and FST_BGT_INVALID_TASK_OPTION
   */
  add<Payload> (options: Options & { signal?: never }, task: TaskDefinition<Payload, unknown>, ...payload: PayloadArguments<Payload>): TaskHandle
  /**
   * Adds a function that gets an `AbortSignal` after its arguments.
   * @throws as without options, and FST_BGT_INVALID_TASK_OPTION
   */
  add<Args extends unknown[]> (options: Options & { signal: true, dedupe?: never }, fn: (...args: [...Args, AbortSignal]) => unknown, ...args: Args): TaskHandle
  /**
   * Adds an overloaded function with options.
   * @throws as without options, and FST_BGT_INVALID_TASK_OPTION
   */
  add<const Args extends unknown[], Fn extends (...args: NoInfer<Args>) => unknown> (options: Options & { signal?: false, dedupe?: never }, fn: Fn & RefuseSurplus<Fn, Args>, ...args: Args): TaskHandle
  /**
   * Adds a function with options.
   * @throws as without options, and FST_BGT_INVALID_TASK_OPTION
   */
  add<Args extends unknown[]> (options: Options & { signal?: false, dedupe?: never }, fn: (...args: Args) => unknown, ...args: Args): TaskHandle
  /** Takes no call: it is here for the errors of wrong ones. */
  add<const First, Rest extends unknown[]> (first: MeantFirst<Options, First, Rest>, ...rest: MeantRest<Options, First, Rest>): TaskHandle

  /**
   * Stores a defined task through the user's own connection, in the transaction that is open there, on PostgreSQL or in the backend's file of
   * SQLite. The task runs once that commits, and never existed if it does not; the outcome of the request plays no part. Resolves with the
   * handle when the row is written. Until the commit `find` does not know the id, `cancel()` resolves with `false`, and `settled()` waits:
   * after a rollback, until the application has closed, with `'stored'`.
   *
   * A wrong argument throws at once; on SQLite everything does, and the row is written before the call returns, so that a synchronous
   * transaction is rolled back. Errors of the connection come through as they are.
   * @param client see {@link TransactionClient}
   * @throws FST_BGT_NOT_DURABLE for a function, a definition with `local: true`, and without a backend; FST_BGT_UNSUPPORTED for a backend on
   * Redis or RabbitMQ; FST_BGT_INVALID_CLIENT, FST_BGT_NO_TRANSACTION (on PostgreSQL as rejections); FST_BGT_STORE_FAILED before the
   * application has started; FST_BGT_UNKNOWN_TASK, FST_BGT_INVALID_PAYLOAD, FST_BGT_PAYLOAD_TOO_LARGE, FST_BGT_OVERLOADED, FST_BGT_CLOSED
   */
  addInTransaction<Payload> (client: TransactionClient, task: TaskDefinition<Payload, unknown>, ...payload: PayloadArguments<Payload>): Promise<TaskHandle>
  /**
   * Adds in a transaction, with options, which override those of the definition. The `delay` counts from this call.
   * @throws as without options, and FST_BGT_INVALID_TASK_OPTION, also for `runOn` and `key`
   */
  addInTransaction<Payload> (client: TransactionClient, options: TransactionTaskOptions, task: TaskDefinition<Payload, unknown>, ...payload: PayloadArguments<Payload>): Promise<TaskHandle>
}

/*
 * The rest serves the errors of wrong calls of `add`. Of its overloads TypeScript shows the error of the last one, which therefore asks for what
 * the call seems to mean. It must not fit a call that the others refuse, but by arguments of type `any`.
 */

declare const kMistake: unique symbol

/** No value has this type; an error shows its text. */
interface Mistake<Text extends string> { readonly [kMistake]: Text }

type AnyFunction = (...args: never) => unknown
type TaskOrFunction = TaskDefinition | ((...args: any) => unknown)

/** The first condition holds for no wrong call. It lets TypeScript infer `First` and `Rest` from the arguments. */
type MeantFirst<Options, First, Rest extends unknown[]> =
  [First] extends [never] ? First : Meant<Options, First, Rest> extends [infer Wanted, ...unknown[]] ? Wanted : never
type MeantRest<Options, First, Rest extends unknown[]> =
  [Rest] extends [never] ? Rest : Meant<Options, First, Rest> extends [unknown, ...infer Wanted] ? Wanted : never

/**
 * The parameters of `add` as a call seems to mean them. `Fn` is its first argument, if that is a task or function. Without a call, as in
 * `Parameters<typeof add>`, the first argument is unknown, and they are those of the overload before.
 */
type Meant<Options, First, Rest extends unknown[], Fn extends AnyFunction = Extract<First, AnyFunction>> =
  unknown extends First ? [options: Options & { signal?: false, dedupe?: never }, fn: (...args: Rest) => unknown, ...args: Rest]
    : [Fn] extends [never]
        ? Rest extends [infer Second, ...infer Args] ? MeantWithOptions<Options, First, Extract<Second, AnyFunction>, Args> : [MeantAlone<First>, ...Rest]
        : MeantCall<Fn, Rest>

/** What stands in place of a first argument that is no function, and the only one. */
type MeantAlone<First> =
  First extends PromiseLike<unknown> ? Mistake<'pass the function, and do not call it'>
    : First extends object & { length?: never } ? Mistake<'a task or function is missing after the options'>
      : Mistake<'pass a task or a function, and do not call it'>

type MeantWithOptions<Options, Given, Fn extends AnyFunction, Args extends unknown[]> =
  [Fn] extends [never] ? [Options | TaskOrFunction, TaskOrFunction, ...Args]
    : [Fn] extends [TaskDefinition<any, unknown>] ? [Options & { signal?: Mistake<'a defined task has ctx.signal'> }, ...MeantCall<Fn, Args>]
        : [Given] extends [{ signal: true }]
            ? [Options & { signal: true, dedupe?: Mistake<'for defined tasks only'> }, ...MeantCall<Fn, Args, [AbortSignal]>]
            : [Options & { signal?: false, dedupe?: Mistake<'for defined tasks only'> }, ...MeantCall<Fn, Args>]

/** A task or function and its arguments. Where they agree in number, an argument is wrong, else the function. */
type MeantCall<Fn extends AnyFunction, Args extends unknown[], Signal extends unknown[] = []> =
  KnownParameters<Fn, Signal> extends infer Params extends unknown[]
    ? Shape<Args> extends Shape<Params> ? [Fn, ...Params]
      : Shape<Args> extends TooMany<Params> ? [Fn, ...Params, ...Array<Mistake<'too many arguments, and options come first'>>]
        : [MeantFunction<Fn, Args, Signal>, ...Args]
    : [MeantFunction<Fn, Args, Signal>, ...Args]

type MeantFunction<Fn extends AnyFunction, Args extends unknown[], Signal extends unknown[]> =
  [Fn] extends [TaskDefinition<any, unknown>] ? Mistake<'the payload is missing'>
    : [Fn] extends [(...args: [...Args, ...Signal]) => unknown]
        ? Mistake<Signal extends [] ? 'other arguments are needed' : 'a function without overloads that takes an AbortSignal last'>
        : (...args: [...Args, ...Signal]) => unknown

/**
 * The parameters, without the `Signal` at their end. `unknown` for a function with overloads or type parameters: any other one is identical
 * with a function made of its parameters.
 */
type KnownParameters<Fn extends AnyFunction, Signal extends unknown[]> =
  [Fn] extends [TaskDefinition<infer Payload, unknown>] ? PayloadArguments<Payload>
    : (<T>() => T extends Fn ? 1 : 2) extends (<T>() => T extends (...args: Parameters<Fn>) => ReturnType<Fn> ? 1 : 2)
        ? Parameters<Fn> extends [...infer Params, ...Signal] ? Params : unknown
        : unknown

/** A tuple of the same length. */
type Shape<List extends unknown[]> = { [Index in keyof List]: any }
type TooMany<Params extends unknown[]> = number extends Params['length'] ? never : [...Shape<Params>, any, ...any[]]

/* The types that users import. `index.ts` exports them with the plugin. */
export type { AppBackgroundTasks, BackgroundTasks } from './collector'
export type { DefinitionOptions, TaskContext, TaskDefinition, TaskHandler, ThreadDefinitionOptions, ThreadTaskContext, ThreadTaskHandler } from './definition'
export type { AbandonMessage, DropMessage, RetryMessage, RunMessage, SettleMessage, TaskMessage } from './messages'
export type { BackgroundTasksOptions, ThreadOptions } from './options'
export type { Schedule, ScheduleInfo } from './schedule'
export type { BackoffOptions, CapturedTask, ContextTaskOptions, Outcome, RunOn, Stats, TaskHandle, TaskInfo, TaskOptions, TaskState, TransactionTaskOptions } from './task'
export type { TransactionClient } from './transaction'

/** The exports of one entry of the package. */
export interface Surface {
  /** Names at run time. */
  values: string[]
  /** Names for TypeScript only. */
  types: string[]
  /** The optional peers whose types it cannot do without. */
  needs?: string[]
}

/** The public surface: a name that comes or goes is a decision, to be noted here and in the changelog. */
export const SURFACE: Record<string, Surface> = {
  '.': {
    values: ['UnrecoverableError', 'defineTask', 'errorCodes', 'fastifyBackgroundTasks'],
    types: [
      'AbandonMessage', 'AppBackgroundTasks', 'BackgroundTasks', 'BackgroundTasksOptions', 'BackoffOptions', 'CapturedTask', 'ContextTaskOptions', 'DefinitionOptions',
      'DropMessage', 'Outcome', 'RetryMessage', 'RunMessage', 'RunOn', 'Schedule', 'ScheduleInfo', 'SettleMessage', 'Stats', 'TaskContext', 'TaskDefinition', 'TaskHandle',
      'TaskHandler', 'TaskInfo', 'TaskMessage', 'TaskOptions', 'TaskState', 'ThreadDefinitionOptions', 'ThreadOptions', 'ThreadTaskContext', 'ThreadTaskHandler',
      'TransactionClient', 'TransactionTaskOptions'
    ]
  },
  './awilix': { values: [], types: ['RequestCradle'], needs: ['@fastify/awilix', 'awilix'] },
  './awilix/async-context': { values: [], types: ['Cradle'], needs: ['@fastify/awilix', 'awilix'] },
  './bullmq': { values: ['bullmq'], types: ['BullmqOptions', 'Retention'] },
  './celery': { values: ['celery'], types: ['CeleryOptions'] },
  './sqlite': { values: ['sqlite'], types: ['Retention', 'SqliteOptions'] },
  './dashboard': { values: ['dashboard'], types: ['DashboardOptions'] },
  './otel': { values: ['BackgroundTasksInstrumentation'], types: ['BackgroundTasksInstrumentationConfig'], needs: ['@opentelemetry/api'] }
}

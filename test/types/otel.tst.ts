import type { MeterProvider, TracerProvider } from '@opentelemetry/api'
import type { Instrumentation } from '@opentelemetry/instrumentation'
import { expect, test } from 'tstyche'
import type { AppBackgroundTasks, RunMessage, SettleMessage, TaskHandle, TaskMessage, TaskState } from '../../index'
import { BackgroundTasksInstrumentation, type BackgroundTasksInstrumentationConfig } from '../../lib/observe/otel'

declare const instrumentation: BackgroundTasksInstrumentation
declare const tracerProvider: TracerProvider
declare const meterProvider: MeterProvider

test('the instrumentation is one of OpenTelemetry\'s', () => {
  expect(instrumentation).type.toBeAssignableTo<Instrumentation<BackgroundTasksInstrumentationConfig>>()
  expect(instrumentation.setTracerProvider).type.toBeCallableWith(tracerProvider)
  expect(instrumentation.setMeterProvider).type.toBeCallableWith(meterProvider)
})

test('its options', () => {
  expect(BackgroundTasksInstrumentation).type.toBeConstructableWith()
  expect(BackgroundTasksInstrumentation).type.toBeConstructableWith({ enabled: false, separateTraces: true })
  expect(BackgroundTasksInstrumentation).type.not.toBeConstructableWith({ separateTraces: 1 })
  expect(BackgroundTasksInstrumentation).type.not.toBeConstructableWith({ tracer: null })
})

test('the messages of the channels', () => {
  expect<TaskMessage['app']>().type.toBe<AppBackgroundTasks>()
  expect<TaskMessage['task']>().type.toBe<TaskHandle>()
  expect<TaskMessage['requestId']>().type.toBe<string | null>()
  expect<RunMessage['result']>().type.toBe<unknown>()
  expect<RunMessage['carrier']>().type.toBe<Record<string, string> | null>()
  expect<SettleMessage['state']>().type.toBe<TaskState>()
})

import type { AppBackgroundTasks } from '../../types/collector'
import type { CollectorParts } from '../collect/parts'
import type { Engine } from '../run/engine'
import type { Ledger } from '../run/ledger'
import type { Settings } from '../run/settings'
import type { HandOver } from '../store/hand-over'
import type { Store } from '../store/store'

/** The parts of one registration of the plugin that the dashboard reads. */
export interface Parts {
  readonly engine: Engine
  readonly app: AppBackgroundTasks
  readonly ledger: Ledger
  readonly settings: Settings
  /** Both are `null` without a backend. */
  readonly handOver: HandOver | null
  readonly store: Store | null
}

export function partsFrom ({ engine, handOver }: CollectorParts): Parts {
  return { engine, app: engine.app, ledger: engine.ledger, settings: engine.settings, handOver, store: handOver?.store ?? null }
}

'use strict'

const { PATH } = require('./apps')
const { start } = require('./child')
const { summarize } = require('./statistics')

/*
 * A row over HTTP. Several server processes, one after the other, because what the compiler makes of the code differs
 * more from process to process than from slice to slice; in each, the sides take turns as A B B A, and every second
 * process has them the other way round.
 */

const CONNECTIONS = 32
const WARM_UP = 300

/**
 * @param build the folder of the plugin's build
 * @param against the folder of another build, as the baseline instead of the row's own
 * @param separate whether each side has its own process
 * @returns the ratios of neighbouring slices, and the microseconds of CPU time per request on either side
 */
async function measure (row, { build, against, separate, processes, pairs, milliseconds }) {
  const ratios = []
  const cpu = { plugin: [], baseline: [] }
  const load = start('load.js')
  for (let i = 0; i < processes; i++) {
    const order = i % 2 === 0 ? ['baseline', 'plugin'] : ['plugin', 'baseline']
    const one = start('server.js', ['--expose-gc'])
    const other = separate ? start('server.js', ['--expose-gc']) : one
    const servers = { [order[0]]: one, [order[1]]: other }
    const ports = {}
    for (const side of order) {
      ports[side] = await servers[side].call('listen', {
        row,
        side,
        build: side === 'plugin' ? build : against ?? build,
        asPlugin: side === 'plugin' || against !== undefined
      })
      await load.call('open', { port: ports[side], count: CONNECTIONS })
    }

    const slice = async (side, milliseconds) => {
      await servers[side].call('begin', { side })
      const { requests } = await load.call('run', { port: ports[side], method: 'GET', path: PATH, milliseconds, awake: true })
      return servers[side].call('end', { requests })
    }

    for (const side of [...order, ...order]) await slice(side, WARM_UP)
    for (let pair = 0; pair < pairs; pair++) {
      const [first, second] = pair % 2 === 0 ? order : order.toReversed()
      const sample = { [first]: await slice(first, milliseconds), [second]: await slice(second, milliseconds) }
      ratios.push(sample.plugin / sample.baseline)
      for (const side of order) cpu[side].push(sample[side])
    }
    for (const side of order) await load.call('close', { port: ports[side] })
    await one.stop()
    if (separate) await other.stop()
  }
  await load.stop()
  return { ratios, cpu: { plugin: summarize(cpu.plugin), baseline: summarize(cpu.baseline) } }
}

module.exports = { measure }

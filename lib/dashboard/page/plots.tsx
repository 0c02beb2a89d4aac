import { useEffect, useRef, useState } from 'preact/hooks'
import UPlot from 'uplot'
import 'uplot/dist/uPlot.min.css'
import { milliseconds, rate } from './model/format'
import { offGround, type Series } from './model/series'

interface Line {
  name: string
  /** The custom property of the style sheet that has its colour. */
  colour: string
  values: Array<number | null>
  dashed?: boolean
}

export function Plots ({ series }: { series: Series }) {
  return (
    <section id='plots' aria-label='The last five minutes of this process'>
      <Plot
        id='plot-rate' title='Tasks per second' unit='per second' at={series.at} write={rate} least={5}
        lines={[{ name: 'failed', colour: '--bad', values: offGround(series.failed) }, { name: 'completed', colour: '--accent', values: series.completed }]}
      />
      <Plot
        id='plot-queue' title='Time in the queue' unit='ms' at={series.at} write={milliseconds} least={10}
        lines={[{ name: 'longest', colour: '--warn', values: offGround(series.longest), dashed: true }, { name: 'mean of those begun', colour: '--accent', values: series.mean }]}
      />
    </section>
  )
}

interface PlotProps {
  id: string
  title: string
  unit: string
  at: number[]
  lines: Line[]
  write: (value: number) => string
  /** The least upper end of the scale. */
  least: number
}

function Plot ({ id, title, unit, at, lines, write, least }: PlotProps) {
  const box = useRef<HTMLDivElement>(null)
  const plot = useRef<UPlot | null>(null)
  const [index, setIndex] = useState<number | null>(null)
  const [scheme, setScheme] = useState(0)

  // The canvas knows nothing of style sheets: it is made anew when the colours change.
  useEffect(() => {
    const dark = matchMedia('(prefers-color-scheme: dark)')
    const change = () => setScheme(count => count + 1)
    dark.addEventListener('change', change)
    return () => dark.removeEventListener('change', change)
  }, [])

  useEffect(() => {
    const element = box.current as HTMLDivElement
    const made = new UPlot(optionsOf(element, lines, write, least, setIndex), dataOf(at, lines), element)
    plot.current = made
    const observer = new ResizeObserver(() => made.setSize(sizeOf(element)))
    observer.observe(element)
    return () => {
      observer.disconnect()
      made.destroy()
    }
  }, [scheme])

  useEffect(() => { plot.current?.setData(dataOf(at, lines)) }, [at])

  const described = lines.map(({ name, values }) => {
    const known = values.filter(value => value !== null)
    return `${name} at most ${write(Math.max(...known, 0))}, lately ${write(Number(values.at(-1)))}`
  })
  const shown = index === null || index >= at.length ? null : index
  return (
    <figure id={id}>
      <figcaption>
        <span>{title}</span>
        <span class='legend'>
          {lines.map(({ name, colour, values, dashed }) => (
            <span key={name}><i class={`${colour.slice(2)}${dashed === true ? ' dashed' : ''}`} /> {name}{shown !== null && <b> {values[shown] === null ? '–' : write(Number(values[shown]))}</b>}</span>
          ))}
          {shown !== null && <span>at {new Date(at[shown]! * 1_000).toLocaleTimeString()}</span>}
        </span>
      </figcaption>
      <div class='plot' role='img' aria-label={`${title}, in ${unit}: ${described.join('; ')}`} ref={box} />
    </figure>
  )
}

function dataOf (at: number[], lines: Line[]): UPlot.AlignedData {
  return [at, ...lines.map(({ values }) => values)] as UPlot.AlignedData
}

function sizeOf (element: HTMLElement): { width: number, height: number } {
  return { width: element.clientWidth, height: element.clientHeight }
}

function optionsOf (element: HTMLElement, lines: Line[], write: (value: number) => string, least: number, setIndex: (index: number | null) => void): UPlot.Options {
  const style = getComputedStyle(element)
  const colour = (name: string) => style.getPropertyValue(name).trim()
  const axis = { stroke: colour('--quiet'), font: '11px system-ui, sans-serif', ticks: { show: false }, grid: { stroke: colour('--line'), width: 1 } }
  return {
    ...sizeOf(element),
    // On the right, room for half of the last time.
    padding: [8, 16, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { setScale: false, x: false, y: false } },
    hooks: { setCursor: [({ cursor }) => setIndex(cursor.idx ?? null)] },
    scales: { y: { range: (_plot, _min, max) => [0, Math.max(max * 1.05, least)] } },
    axes: [
      { ...axis, space: 60, size: 24, values: (_plot, splits) => splits.map(split => new Date(split * 1_000).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })), incrs: [60, 120, 300] },
      { ...axis, space: 28, size: 56, values: (_plot, splits) => splits.map(write) }
    ],
    series: [
      {},
      ...lines.map(({ colour: name, dashed }) => ({
        stroke: colour(name),
        width: 1.5,
        ...(dashed === true && { dash: [4, 3] }),
        points: { show: false, size: 4, filter: (plot: UPlot, index: number) => isolated(plot.data[index]!) }
      }))
    ]
  }
}

/** The places of values between two that are missing: a line would not show them. */
function isolated (values: ArrayLike<number | null | undefined>): number[] {
  return Array.from(values, (value, at) => value != null && values[at - 1] == null && values[at + 1] == null ? at : -1).filter(at => at !== -1)
}

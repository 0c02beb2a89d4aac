import sharp from 'sharp'
import type { TaskHandler } from '../index'

export interface Picture {
  name: string
  image: Uint8Array
  width: number
}

export interface Thumbnail {
  width: number
  height: number
  image: Uint8Array
}

/** Makes a soft, gray thumbnail. This module is loaded in a thread: its default export is the handler of the task. */
const makeThumbnail: TaskHandler<Picture, Promise<Thumbnail>> = async ({ name, image, width }, ctx) => {
  // A native library works on threads of its own, and holds up nobody.
  const { data, info } = await sharp(image).resize({ width }).grayscale().raw().toBuffer({ resolveWithObject: true })
  ctx.progress('resized')
  // JavaScript holds the thread that it runs on: on the main thread, no request would be answered meanwhile.
  const soft = blur(data, info.width, info.height, 12)
  ctx.progress('blurred')
  const thumbnail = await sharp(soft, { raw: { width: info.width, height: info.height, channels: 1 } }).jpeg().toBuffer()
  ctx.log.info({ name, bytes: thumbnail.length }, 'thumbnail made')
  return { width: info.width, height: info.height, image: thumbnail }
}

export default makeThumbnail

/** Each pixel becomes the mean of those around it. */
function blur (pixels: Uint8Array, width: number, height: number, radius: number): Uint8Array {
  const result = new Uint8Array(width * height)
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let sum = 0
      let count = 0
      for (let v = Math.max(y - radius, 0); v <= Math.min(y + radius, height - 1); v++) {
        for (let u = Math.max(x - radius, 0); u <= Math.min(x + radius, width - 1); u++) {
          sum += pixels[v * width + u] as number
          count++
        }
      }
      result[y * width + x] = sum / count
    }
  }
  return result
}

/** An item of a {@link List}: it is in one list at a time. */
interface Linked<Item> {
  next: Item | null
}

/** A singly linked list through the items' `next`: no allocation, where an array or `Set` would dominate a small request's cost. */
export class List<Item extends Linked<Item>> {
  first: Item | null = null
  last: Item | null = null

  append (item: Item): void {
    if (this.last === null) this.first = item
    else this.last.next = item
    this.last = item
  }

  prepend (item: Item): void {
    item.next = this.first
    this.first = item
    this.last ??= item
  }

  shift (): Item | null {
    const item = this.first
    if (item === null) return null
    this.first = item.next
    if (this.first === null) this.last = null
    item.next = null
    return item
  }

  /** Empties the list. Returns its first item, which stays linked to the others. */
  clear (): Item | null {
    const { first } = this
    this.first = this.last = null
    return first
  }
}

// Keeps the visible rows in place while rows above and below change.

/** The distance from the end, in pixels, that counts as being at the end. */
const END_MARGIN_PX = 40;

export class ScrollAnchor {
  /** Whether the view follows the end of the list. */
  followsEnd = true;
  scroller: HTMLElement | null = null;
  content: HTMLElement | null = null;
  /** The visible rows, and their distances from the top of the view. */
  private anchors: { key: string; offset: number }[] = [];
  private lastTop = 0;

  constructor(
    /** Whether the end of the rendered rows is the end of the conversation. */
    private readonly isEnd: () => boolean,
  ) {}

  /** The keys of the visible rows, from the top. */
  get visibleKeys(): string[] {
    return this.anchors.map(({ key }) => key);
  }

  /** The hidden pixels above and below the view. */
  get hiddenPixels(): { above: number; below: number } {
    const { scroller } = this;
    if (scroller === null) return { above: 0, below: 0 };
    return { above: scroller.scrollTop, below: scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop };
  }

  /** Called before the rows change, because a scroll event may still be pending. */
  capture(): void {
    if (this.scroller !== null && Math.abs(this.scroller.scrollTop - this.lastTop) > 1) this.measure();
  }

  /** Remembers the positions of the visible rows. */
  measure(): void {
    const { scroller } = this;
    if (scroller === null) return;
    this.lastTop = scroller.scrollTop;
    this.followsEnd = this.hiddenPixels.below <= END_MARGIN_PX && this.isEnd();
    const view = scroller.getBoundingClientRect();
    this.anchors = [];
    const rows = this.rows();
    for (let at = this.firstVisible(rows, view.top); at < rows.length; at++) {
      const { top } = rows[at]!.getBoundingClientRect();
      if (top >= view.bottom) break;
      this.anchors.push({ key: rows[at]!.dataset["key"]!, offset: top - view.top });
    }
  }

  /** Called after the rows or their sizes changed: scrolls the visible rows back to where they were. */
  restore(): void {
    const { scroller } = this;
    if (scroller === null) return;
    if (this.followsEnd) {
      if (this.hiddenPixels.below > 0) scroller.scrollTop = scroller.scrollHeight;
    } else {
      const found = this.anchors.map(({ key, offset }) => ({ row: this.findRow(key), offset })).find(({ row }) => row !== null);
      if (found?.row) {
        const moved = found.row.getBoundingClientRect().top - scroller.getBoundingClientRect().top - found.offset;
        if (Math.abs(moved) >= 0.5) scroller.scrollTop += moved;
      }
    }
    this.measureTop();
  }

  /** Scrolls to a row, with a fraction of the view above it. Returns false if the row is not rendered. */
  scrollTo(key: string, above: number): boolean {
    const row = this.findRow(key);
    const { scroller } = this;
    if (row === null || scroller === null) return false;
    const top = row.getBoundingClientRect().top - scroller.getBoundingClientRect().top;
    scroller.scrollTop += top - scroller.clientHeight * above;
    this.measure();
    return true;
  }

  findRow(key: string): HTMLElement | null {
    return this.content?.querySelector<HTMLElement>(`[data-key="${CSS.escape(key)}"]`) ?? null;
  }

  private rows(): HTMLElement[] {
    return [...(this.content?.children ?? [])].filter((row): row is HTMLElement => (row as HTMLElement).dataset["key"] !== undefined);
  }

  private measureTop(): void {
    this.lastTop = this.scroller?.scrollTop ?? 0;
  }

  /** A binary search, since the rows are in order. */
  private firstVisible(rows: HTMLElement[], top: number): number {
    let low = 0;
    let high = rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rows[middle]!.getBoundingClientRect().bottom > top) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

export function People() {
  return <div class="empty">People</div>;
}

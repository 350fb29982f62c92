export function Explore() {
  return <div class="empty">Explore</div>;
}

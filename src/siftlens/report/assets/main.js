// Start on the head with the largest clear effect, then draw.
function strongest() {
  const panel = panelOf("semantic_pull");
  let best = { layer: 0, head: MEAN };
  let size = 0;
  panel?.verdicts.forEach((line, layer) => line.forEach((verdict, head) => {
    const effect = Math.abs(read(panel, "effect", layer, head) ?? 0);
    if (head !== MEAN && (verdict === "relevant" || verdict === "small") && effect > size) [best, size] = [{ layer, head }, effect];
  }));
  return best;
}
Object.assign(state, strongest());
linkFindings();
drawHeads();
drawDepth();
drawPickers();
drawLevels();
drawAgainst();
drawExtremes();
drawGroups();
drawExplorer();

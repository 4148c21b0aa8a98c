//! The comparison: what both of two regions have of a common version, by their digests; what differs is merged.
//!
//! A region may know of something whose changes went down with a disk: somebody fetched it in time. No stream brings it to
//! the others, only this does. Nothing else may: what a region lacks although it says that it has it is a violation, and
//! not made good here without a word.

use cell_core::canon::Message;
use cell_core::cell::NotComparable;
use cell_core::digest::Digest;
use cell_core::entity::Entity;

use super::node::Node;
use super::world::World;

/// A difference seen this often in a row is looked into.
const SEEN_BEFORE_REPAIR: u32 = 2;

impl World {
    /// Compares with every peer that can be reached, and takes over what it has beyond this region.
    pub(crate) fn compare(&mut self, i: usize) {
        for peer in self.reachable(i) {
            let agrees = self.agrees(i, peer);
            let seen = self.nodes[i].differs.entry(peer).or_default();
            *seen = if agrees { 0 } else { *seen + 1 };
            if *seen >= SEEN_BEFORE_REPAIR {
                self.take_over(i, peer);
            }
        }
    }

    /// Whether both say the same of a version that both have. Who knows that it lacks something gets it otherwise.
    pub(crate) fn agrees(&self, i: usize, peer: usize) -> bool {
        let (node, source) = (&self.nodes[i], &self.nodes[peer]);
        let says_all =
            |of: &Node| of.is_synced() && of.may_be_built_on() && of.cell.quarantined().next().is_none();
        if !says_all(node) || !says_all(source) {
            return true;
        }
        let at = source.cell.version();
        let theirs = source.cell.digests_at(Some(&at), source.local(self.now_ms));
        let ours = node.cell.digests_at(Some(&at), node.local(self.now_ms));
        let comparable = |said: &Result<Vec<Digest>, NotComparable>| said.is_ok();
        !comparable(&ours) || !comparable(&theirs) || ours == theirs
    }

    fn take_over(&mut self, i: usize, peer: usize) {
        let (node, source) = (&self.nodes[i], &self.nodes[peer]);
        if let Some(lacking) = lacking(node, source) {
            let detail = format!("{lacking} although {} has all changes up to there", node.region);
            self.journal.violate("D5 convergence", detail);
        }
        let theirs = source.shelf.entities.iter();
        let digest = |entity: Option<&std::sync::Arc<Entity>>| entity.map(|entity| entity.digest());
        let theirs =
            theirs.filter(|(id, entity)| digest(node.shelf.entities.get(id)) != Some(entity.digest()));
        // Through the bytes, as on the wire.
        let differing: Vec<Entity> =
            theirs.filter_map(|(_, entity)| Entity::decode(&entity.to_shape().to_canon()).ok()).collect();
        let now_ms = node.local(self.now_ms);
        let node = &mut self.nodes[i];
        let Ok(step) = node.cell.merge(&node.shelf, differing, now_ms) else { return };
        if !step.merged.is_empty() {
            self.note(|| format!("{i} takes over {} entities that differ in {peer}", step.merged.len()));
        }
        self.commit(i, step, None);
    }
}

/// What `source` has and `node` has not, of a change that both have.
fn lacking(node: &Node, source: &Node) -> Option<String> {
    let (ours, theirs) = (node.cell.version(), source.cell.version());
    source.shelf.entities.values().find_map(|entity| {
        let known = node.shelf.entities.get(&entity.id);
        entity.items().find_map(|(key, item)| {
            let here = known.and_then(|known| known.items().find(|(other, _)| *other == key));
            let is_here = |origin| here.is_some_and(|(_, item)| item.origins.contains(origin));
            let mut both =
                item.origins.iter().filter(|origin| ours.covers(&origin.dot) && theirs.covers(&origin.dot));
            let lacking = both.find(|origin| !is_here(origin))?;
            Some(format!("{} lacks {lacking} of {}", node.region, entity.id))
        })
    })
}

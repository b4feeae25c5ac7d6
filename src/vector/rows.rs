//! The rows of an index, in chunks of fixed size: growth never copies more than one chunk.

use super::codes::{RowCodes, RowScale, decode, lines_per_row};
use super::kernels::Line;

/// Rows per chunk.
pub(super) const CHUNK_ROWS: usize = 4096;
/// Rows a chunk has room for at first: most scopes are small.
const FIRST_ROWS: usize = 16;
/// Rows per word of the bit map of live rows.
pub(super) const BLOCK: usize = 64;

/// Rows by slot. A removed row stays, dead, until the next compaction.
pub(super) struct Rows<A> {
    dimensions: usize,
    keeps_vectors: bool,
    chunks: Vec<Chunk<A>>,
    slots: usize,
    live: usize,
}

/// Up to [`CHUNK_ROWS`] rows, one array per field.
pub(super) struct Chunk<A> {
    codes: Vec<Line>,
    scales: Vec<RowScale>,
    ids: Vec<i64>,
    attributes: Vec<A>,
    live: [u64; CHUNK_ROWS / BLOCK],
    /// f32 vectors of all rows, or of none.
    vectors: Vec<f32>,
}

/// One row.
#[derive(Clone, Copy)]
pub(super) struct Row<'a, A> {
    pub id: i64,
    pub attributes: A,
    pub codes: &'a [Line],
    pub scale: RowScale,
    pub vector: Option<&'a [f32]>,
}

impl<A: Copy> Row<'_, A> {
    /// Writes the vector the codes stand for.
    pub fn decode(&self, vector: &mut [f32]) {
        decode(self.codes, self.scale.scale, vector);
    }
}

impl<A: Copy> Rows<A> {
    /// No rows; vectors are kept until [`Rows::drop_vectors`].
    pub fn new(dimensions: usize) -> Self {
        Self { dimensions, keeps_vectors: true, chunks: Vec::new(), slots: 0, live: 0 }
    }

    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Slots in use, by live and dead rows.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Live rows.
    pub fn len(&self) -> usize {
        self.live
    }

    pub fn chunks(&self) -> &[Chunk<A>] {
        &self.chunks
    }

    pub fn keeps_vectors(&self) -> bool {
        self.keeps_vectors
    }

    /// Forgets the f32 vectors, now and of rows to come.
    pub fn drop_vectors(&mut self) {
        self.keeps_vectors = false;
        for chunk in &mut self.chunks {
            chunk.vectors = Vec::new();
        }
    }

    /// Encodes and appends a usable vector; returns its slot.
    pub fn encode(&mut self, id: i64, vector: &[f32], attributes: A) -> usize {
        let codes = RowCodes::new(vector);
        self.push(Row { id, attributes, codes: &codes.lines, scale: codes.scale, vector: Some(vector) })
    }

    fn push(&mut self, row: Row<'_, A>) -> usize {
        if self.slots == self.chunks.len() * CHUNK_ROWS {
            self.chunks.push(Chunk::new());
        }
        let slot = self.slots;
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(row, self.keeps_vectors);
            self.slots += 1;
            self.live += 1;
        }
        slot
    }

    /// Marks the row of a slot as dead.
    pub fn kill(&mut self, slot: usize) {
        let row = slot % CHUNK_ROWS;
        let word = &mut self.chunks[slot / CHUNK_ROWS].live[row / BLOCK];
        let bit = 1 << (row % BLOCK);
        if *word & bit != 0 {
            *word &= !bit;
            self.live -= 1;
        }
    }

    pub fn attributes(&self, slot: usize) -> &A {
        &self.chunks[slot / CHUNK_ROWS].attributes[slot % CHUNK_ROWS]
    }

    pub fn attributes_mut(&mut self, slot: usize) -> &mut A {
        &mut self.chunks[slot / CHUNK_ROWS].attributes[slot % CHUNK_ROWS]
    }

    pub fn vector(&self, slot: usize) -> Option<&[f32]> {
        self.chunks[slot / CHUNK_ROWS].vector(slot % CHUNK_ROWS, self.dimensions)
    }

    /// All rows by slot, dead ones too.
    pub fn all(&self) -> impl Iterator<Item = Row<'_, A>> {
        self.chunks.iter().flat_map(|chunk| (0..chunk.ids.len()).map(|row| chunk.row(row, self.dimensions)))
    }

    /// Live rows by slot.
    pub fn live(&self) -> impl Iterator<Item = Row<'_, A>> {
        self.chunks.iter().flat_map(|chunk| chunk.live_rows(self.dimensions))
    }

    /// Moves the live rows together, in the same order. Needs memory for one chunk more.
    pub fn compact(&mut self) {
        let chunks = std::mem::take(&mut self.chunks);
        (self.slots, self.live) = (0, 0);
        for chunk in chunks {
            for row in chunk.live_rows(self.dimensions) {
                self.push(row);
            }
        }
    }

    pub fn memory_bytes(&self) -> usize {
        self.chunks.iter().map(Chunk::memory_bytes).sum()
    }
}

impl<A: Copy> Chunk<A> {
    fn new() -> Self {
        Self {
            codes: Vec::new(),
            scales: Vec::new(),
            ids: Vec::new(),
            attributes: Vec::new(),
            live: [0; CHUNK_ROWS / BLOCK],
            vectors: Vec::new(),
        }
    }

    fn push(&mut self, row: Row<'_, A>, keep_vector: bool) {
        let index = self.ids.len();
        if index == self.ids.capacity() {
            // Reserved by hand, so that a full chunk has no spare capacity in any array.
            let more = index.max(FIRST_ROWS).min(CHUNK_ROWS - index);
            self.codes.reserve_exact(more * row.codes.len());
            self.scales.reserve_exact(more);
            self.ids.reserve_exact(more);
            self.attributes.reserve_exact(more);
        }
        self.codes.extend_from_slice(row.codes);
        self.scales.push(row.scale);
        self.ids.push(row.id);
        self.attributes.push(row.attributes);
        self.live[index / BLOCK] |= 1 << (index % BLOCK);
        if keep_vector && let Some(vector) = row.vector {
            self.vectors.extend_from_slice(vector);
        }
    }

    pub fn codes(&self) -> &[Line] {
        &self.codes
    }

    pub fn scale(&self, row: usize) -> RowScale {
        self.scales[row]
    }

    pub fn id(&self, row: usize) -> i64 {
        self.ids[row]
    }

    pub fn attributes(&self, row: usize) -> &A {
        &self.attributes[row]
    }

    /// Blocks of [`BLOCK`] rows with the rows that live, as bits.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, u64)> {
        self.live.iter().copied().enumerate().filter(|(_, live)| *live != 0)
    }

    /// The f32 vector of a row, if vectors are kept.
    pub fn vector(&self, row: usize, dimensions: usize) -> Option<&[f32]> {
        self.vectors.get(row * dimensions..(row + 1) * dimensions)
    }

    fn row(&self, row: usize, dimensions: usize) -> Row<'_, A> {
        let stride = lines_per_row(dimensions);
        Row {
            id: self.ids[row],
            attributes: self.attributes[row],
            codes: &self.codes[row * stride..][..stride],
            scale: self.scales[row],
            vector: self.vector(row, dimensions),
        }
    }

    fn live_rows(&self, dimensions: usize) -> impl Iterator<Item = Row<'_, A>> {
        self.blocks()
            .flat_map(|(block, live)| bits(live).map(move |bit| block * BLOCK + bit))
            .map(move |row| self.row(row, dimensions))
    }

    fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.codes.capacity() * size_of::<Line>()
            + self.scales.capacity() * size_of::<RowScale>()
            + self.ids.capacity() * size_of::<i64>()
            + self.attributes.capacity() * size_of::<A>()
            + self.vectors.capacity() * size_of::<f32>()
    }
}

/// Positions of the set bits, ascending.
pub(super) fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros() as usize;
        word &= word.checked_sub(1)?;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compaction_keeps_the_order_across_chunks() {
        let mut rows = Rows::new(3);
        for id in 0..2 * CHUNK_ROWS + 5 {
            let slot = rows.encode(id as i64, &[0.5, id as f32, -1.0], id);
            assert_eq!(slot, id);
        }
        for slot in 0..rows.slots() {
            if slot % 3 != 1 {
                rows.kill(slot);
                rows.kill(slot);
            }
        }
        let expected: Vec<usize> = (1..2 * CHUNK_ROWS + 5).step_by(3).collect();
        assert_eq!(rows.len(), expected.len());
        rows.compact();
        assert_eq!((rows.slots(), rows.len(), rows.chunks().len()), (expected.len(), expected.len(), 1));
        for (slot, (row, &id)) in rows.live().zip(&expected).enumerate() {
            assert_eq!((row.id, row.attributes, *rows.attributes(slot)), (id as i64, id, id));
            assert_eq!(rows.vector(slot), Some([0.5, id as f32, -1.0].as_slice()));
            let mut decoded = [0.0; 3];
            row.decode(&mut decoded);
            assert!((decoded[1] - id as f32).abs() <= row.scale.error);
        }
    }

    #[test]
    fn a_full_chunk_has_no_spare_capacity() {
        let mut rows = Rows::new(130);
        for id in 0..=CHUNK_ROWS {
            rows.encode(id as i64, &[0.5; 130], ());
        }
        rows.drop_vectors();
        assert_eq!(rows.vector(0), None);
        let full = &rows.chunks()[0];
        assert_eq!(full.codes.capacity(), 3 * CHUNK_ROWS);
        assert_eq!(full.ids.capacity(), CHUNK_ROWS);
        assert_eq!(rows.chunks()[1].ids.capacity(), FIRST_ROWS);
    }

    #[test]
    fn bits_ascend() {
        assert_eq!(bits(0).count(), 0);
        assert_eq!(bits(1 | 1 << 5 | 1 << 63).collect::<Vec<_>>(), [0, 5, 63]);
        assert_eq!(bits(u64::MAX).count(), 64);
    }
}

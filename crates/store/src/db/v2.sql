-- What a layer's root directory depends on: '' for nothing, because the layer lists it; the digest of the attributes it took
-- from the layers below; NULL where the whole chain counts (standalone = 0).
ALTER TABLE layers ADD COLUMN root TEXT;

-- Of older layers that is not known. They still serve the chain they were unpacked on.
UPDATE OR IGNORE layers SET standalone = 0 WHERE standalone = 1;

DROP INDEX layers_standalone;
CREATE UNIQUE INDEX layers_standalone ON layers (diff_id, root) WHERE state = 'committed' AND standalone = 1;

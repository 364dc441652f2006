// Added to JupyterLab's own settings. Its ids for modules are hashes of their paths, this checkout's among them:
// counted instead, the same sources give the same bytes in any folder.
module.exports = { optimization: { moduleIds: 'natural' } };

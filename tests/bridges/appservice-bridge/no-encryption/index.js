// The real package downloads a native library when it is installed. This bridge does not encrypt, so nothing is exported.
module.exports = {};
